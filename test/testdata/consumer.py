"""A consumer that knows nothing but the rules of the README ("What a consumer has to do"):
it reads events, one JSON object a line, and prints the links that are there in the end."""

import json
import sys

hosts = {}  # by name: how far its events were read, and its links by namespace and index

for line in sys.stdin:
    event = json.loads(line)
    host = hosts.setdefault(event["host"], {"epoch": None, "seq": 0, "links": {}, "seen": set()})
    if event["epoch"] == host["epoch"]:
        if event["seq"] <= host["seq"]:
            continue  # a repeat
        if event["seq"] > host["seq"] + 1:
            sys.exit("a gap: %s after %d" % (event["id"], host["seq"]))
    host["epoch"], host["seq"] = event["epoch"], event["seq"]
    links, netns, index = host["links"], event.get("netns", ""), event["link"]["ifindex"]
    if "netns_previous" in event:
        links.pop((event["netns_previous"], index), None)
    if event["event"] == "del":
        links.pop((netns, index), None)
    else:
        links[netns, index] = event["link"]
    snapshot = event.get("snapshot")
    if snapshot:
        if snapshot["pos"] == 1:
            host["seen"] = set()
        host["seen"].add(index)
        if snapshot["pos"] == snapshot["of"] and len(host["seen"]) == snapshot["of"]:
            for key in [key for key in links if key[0] == netns and key[1] not in host["seen"]]:
                del links[key]

for host in sorted(hosts):
    for netns, index in sorted(hosts[host]["links"]):
        print(json.dumps({"host": host, "netns": netns, "link": hosts[host]["links"][netns, index]}))
