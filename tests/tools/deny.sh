#!/usr/bin/env bash
# deny.sh: checks licences, sources and bans of the dependencies against deny.toml.
# Advisories are a separate matter: they change without us, and need a database from outside.
source "$(dirname "$0")/common.sh"
cargo_tool cargo-deny 0.20.2 cargo-deny
"$TOOL" --locked --all-features check --hide-inclusion-graph bans licenses sources </dev/null
