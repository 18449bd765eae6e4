#!/usr/bin/env bash
# Installs the system packages that tests need. Idempotent; as root or with sudo.
set -euo pipefail
need=()
command -v strace >/dev/null || need+=(strace)
command -v curl >/dev/null || need+=(curl)
command -v tmux >/dev/null || need+=(tmux)
command -v systemd-analyze >/dev/null || need+=(systemd)
command -v mkfs.ext4 >/dev/null || need+=(e2fsprogs)
[ ${#need[@]} -eq 0 ] && exit 0
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq "${need[@]}"
