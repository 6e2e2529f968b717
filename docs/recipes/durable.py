"""A durable consumer: the server keeps its place in the stream, so that it may be
stopped, killed or moved, and misses nothing.

    pip install nats-py
    NATS_URL=nats://nats.example.com python3 durable.py events.jsonl

It records each event once, in order. An event is acknowledged when it has been dealt
with; one that is not, since the consumer was killed or an error came, is delivered again
after ACK_WAIT seconds. At most one is underway, which keeps the order. A crash between
the record and the acknowledgment brings an event again that is recorded: it is known by
its epoch and seq.
"""

import asyncio
import json
import os
import sys

import nats
from nats.errors import TimeoutError
from nats.js.api import AckPolicy, ConsumerConfig


class Record:
    """The file in which the events are, one a line, and the last of each host."""

    def __init__(self, path):
        self.last = {}
        self.file = open(path, "a+b")
        self.file.seek(0)
        whole = 0
        for line in self.file:
            if not line.endswith(b"\n"):  # a crash has cut it off
                break
            whole += len(line)
            event = json.loads(line)
            self.last[event["host"]] = event
        self.file.truncate(whole)
        self.file.seek(whole)

    def handle(self, data):
        """Records an event, unless it is recorded."""
        try:
            event = json.loads(data)
            host, epoch, seq = event["host"], event["epoch"], event["seq"]
        except (ValueError, KeyError, TypeError) as err:
            print("ignoring what is no event:", err, file=sys.stderr)
            return
        last = self.last.get(host)
        if last:
            if epoch == last["epoch"] and seq <= last["seq"]:
                return  # a repeat
            if seq != (last["seq"] + 1 if epoch == last["epoch"] else 1):
                print(f"{host}: events between {last['id']} and {event['id']} have expired; "
                      "its next snapshot, or its bridge, tells its links", file=sys.stderr)
        # Where power may fail, the file has to be synced; in a database, the last event
        # of each host is written in the same transaction as what follows from it.
        self.file.write(data + b"\n")
        self.file.flush()
        self.last[host] = event


async def main():
    record = Record(sys.argv[1])
    nc = await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)
    js = nc.jetstream()
    subscription = await js.pull_subscribe(
        "iface.*.*",
        durable=os.environ.get("DURABLE", "recorder"),
        stream="IFACE",
        config=ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=float(os.environ.get("ACK_WAIT", "30")),
            max_ack_pending=1,
        ),
    )
    while True:
        try:
            messages = await subscription.fetch(1, timeout=30)
        except TimeoutError:
            continue
        for message in messages:
            try:
                record.handle(message.data)
            except OSError as err:
                print("trying again:", err, file=sys.stderr)
                await message.nak(delay=1)
                continue
            await message.ack()


asyncio.run(main())
