#!/bin/sh
# deb: "remove" or "upgrade"; rpm: how many versions stay.
set -e
case "${1:-0}" in
  remove | 0)
    if [ -d /run/systemd/system ]; then
      systemctl disable --now ifacebridge.service
    else
      rm -f /etc/systemd/system/multi-user.target.wants/ifacebridge.service
    fi
    ;;
esac
