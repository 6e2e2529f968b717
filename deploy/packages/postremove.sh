#!/bin/sh
# deb: "purge" takes the spool, too.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
if [ "${1:-}" = purge ]; then
  rm -rf /var/lib/private/ifacebridge /var/lib/ifacebridge
fi
