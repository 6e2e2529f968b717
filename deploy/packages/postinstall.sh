#!/bin/sh
# After an installation the service waits for its settings; after an upgrade the one
# that runs is restarted.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart ifacebridge.service
fi
