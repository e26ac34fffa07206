#!/usr/bin/env bash
# adapt.sh FOLDER: lets the source of Jaeger 2.13.0 (as a module: v1.76.0) build with the Collector's modules at 0.142.
# It was written for those at 0.140, of which too many are missing from the checksum database. Those at 0.142 take
# the extensions in place of the host, and hold an exporter's queue, unless there is none, to have its numbers.
set -euo pipefail
cd "$1"
sed -i '/ToClientConn(/s/f\.telset\.Host/&.GetExtensions()/' internal/storage/v[12]/grpc/factory.go
sed -i '/\.ToServer(/s/\bhost\b/&.GetExtensions()/' cmd/jaeger/internal/extension/{expvar,remotesampling}/extension.go
sed -i 's/^\t\ttelset\.Host,$/\t\ttelset.Host.GetExtensions(),/' cmd/{query,remote-storage}/app/server.go
cd cmd/jaeger/internal/exporters/storageexporter
sed -i 's/\(QueueConfig  *\)\(exporterhelper\.\)/\1*\2/' config.go
sed -i '/WithQueue(/d' factory.go
