// A durable consumer: the server keeps its place in the stream, so that it may be
// stopped, killed or moved, and misses nothing.
//
//	npm install @nats-io/transport-node @nats-io/jetstream
//	NATS_URL=nats://nats.example.com node durable.mjs events.jsonl
//
// It records each event once, in order. An event is acknowledged when it has been dealt
// with; one that is not, since the consumer was killed or an error came, is delivered
// again after ACK_WAIT seconds. At most one is underway, which keeps the order. A crash
// between the record and the acknowledgment brings an event again that is recorded: it is
// known by its epoch and seq.
import { existsSync, openSync, readFileSync, truncateSync, writeSync } from "node:fs";
import { connect, nanos } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";

// The file in which the events are, one a line, and the last of each host.
const path = process.argv[2];
const last = new Map();
if (existsSync(path)) {
  const data = readFileSync(path);
  const whole = data.lastIndexOf("\n") + 1; // a crash may have cut the last line off
  truncateSync(path, whole);
  for (const line of data.subarray(0, whole).toString().split("\n").filter(Boolean)) {
    const event = JSON.parse(line);
    last.set(event.host, event);
  }
}
const file = openSync(path, "a");

// handle records an event, unless it is recorded.
function handle(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    // no JSON: the next lines say so
  }
  if (!event?.host || !event.epoch) {
    console.error("ignoring what is no event:", data);
    return;
  }
  const before = last.get(event.host);
  if (before) {
    if (event.epoch === before.epoch && event.seq <= before.seq) return; // a repeat
    if (event.seq !== (event.epoch === before.epoch ? before.seq + 1 : 1)) {
      console.error(`${event.host}: events between ${before.id} and ${event.id} have expired; ` +
        "its next snapshot, or its bridge, tells its links");
    }
  }
  // Where power may fail, the file has to be synced; in a database, the last event of
  // each host is written in the same transaction as what follows from it.
  writeSync(file, data + "\n");
  last.set(event.host, event);
}

const nc = await connect({ servers: process.env.NATS_URL, maxReconnectAttempts: -1 });
const durable = process.env.DURABLE ?? "recorder";
const manager = await jetstreamManager(nc);
await manager.consumers.add("IFACE", {
  durable_name: durable,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(1000 * Number(process.env.ACK_WAIT ?? 30)),
  max_ack_pending: 1,
});
const consumer = await jetstream(nc).consumers.get("IFACE", durable);
for await (const m of await consumer.consume({ max_messages: 1 })) {
  try {
    handle(m.string());
  } catch (err) {
    console.error("trying again:", err.message);
    m.nak(1000);
    continue;
  }
  m.ack();
}
