#!/bin/sh
# Builds a release into dist/: deploy/release.sh v1.2.3
#
# The same source and the same Go make the same binaries, on any machine and in any
# folder. Beside each stands what it is made of (CycloneDX), and SHA256SUMS over all
# of it.
set -eu
version=${1:?usage: deploy/release.sh VERSION}
cd "$(dirname "$0")/.."
rm -rf dist
mkdir dist
export GOARM=7 # arm is armv7
for arch in ${ARCHES:-amd64 arm64 riscv64 arm s390x}; do
  name=ifacebridge-$version-linux-$arch
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -tags noembed -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.release=$version" -o "dist/$name" ./cmd/ifacebridge
  go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 \
    bin -json -std -noserial -version "$version" -output "dist/$name.cdx.json" "dist/$name"
done
cd dist
sha256sum -- * > SHA256SUMS
cat SHA256SUMS
