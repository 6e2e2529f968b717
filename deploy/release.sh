#!/bin/sh
# Builds a release into dist/, or the empty folder $OUT: deploy/release.sh v1.2.3
#
# For each architecture a static binary, what it is made of (CycloneDX), a deb and an
# rpm, and SHA256SUMS over all of it. The same source and the same Go make the same
# bytes, on any machine and in any folder.
#
# The image, for the same architectures, is not part of it, since it goes to a registry:
#   docker buildx build --platform linux/amd64,linux/arm64,linux/riscv64,linux/arm/v7,linux/s390x \
#     --build-arg VERSION=v1.2.3 --build-arg REVISION="$(git rev-parse HEAD)" \
#     --tag registry.example.com/ifacebridge:v1.2.3 --push .
set -eu
export VERSION="${1:?usage: deploy/release.sh VERSION}"
if [ -n "${OUT:-}" ]; then
  mkdir -p "$OUT"
  OUT=$(cd "$OUT" && pwd)
  [ -z "$(ls -A "$OUT")" ] || { echo "$0: $OUT is not empty" >&2; exit 1; }
fi
cd "$(dirname "$0")/.."
# The time that the files in the packages have.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
[ -n "${OUT:-}" ] || rm -rf dist
export OUT="${OUT:-dist}"
parts=$OUT/packages
mkdir -p "$parts"

build() { # build ARCH OUTPUT
  CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -tags noembed -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.release=$VERSION" -o "$2" ./cmd/ifacebridge
}

# What the packages have beside the binary, from a binary that runs here.
build "$(go env GOHOSTARCH)" "$parts/ifacebridge"
cp deploy/systemd/* "$parts"
"$parts/ifacebridge" man | gzip -n9 > "$parts/ifacebridge.1.gz"
for shell in bash zsh fish; do
  "$parts/ifacebridge" completion $shell > "$parts/ifacebridge.$shell"
done

export GOARM=7 # arm is armv7, which nfpm calls arm7
for ARCH in ${ARCHES:-amd64 arm64 riscv64 arm s390x}; do
  export ARCH PACKAGE_ARCH="$(echo "$ARCH" | sed "s/^arm$/arm7/")"
  name=ifacebridge-$VERSION-linux-$(echo "$ARCH" | sed "s/^arm$/armv7/")
  build "$ARCH" "$OUT/$name"
  go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 \
    bin -json -std -noserial -notimestamp -version "$VERSION" -output "$OUT/$name.cdx.json" "$OUT/$name"
  mkdir "$parts/$ARCH"
  cp "$OUT/$name" "$parts/$ARCH/ifacebridge"
  find "$parts" -exec touch --date="@$SOURCE_DATE_EPOCH" {} +
  for packager in deb rpm; do
    go tool -modfile=tools/go.mod nfpm package --config deploy/packages/nfpm.yaml --packager $packager --target "$OUT/$name.$packager"
  done
done
rm -r "$parts"
cd "$OUT"
sha256sum -- * > SHA256SUMS
cat SHA256SUMS
