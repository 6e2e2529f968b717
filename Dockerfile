# A static binary, without the embedded server, in an empty image with the certificate
# authorities of the build stage: no shell, no user but a number, nothing to update but
# the bridge.
#
# The base image is a build argument, for registries of your own. It needs Go, a shell,
# and the authorities in a file, as Debian's and Alpine's have them.
ARG GO_IMAGE=golang:1.26
# BuildKit builds on its own platform for any other; the builder before it knows one only.
FROM --platform=${BUILDPLATFORM:-linux} ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=${TARGETOS:-linux} GOARCH=${TARGETARCH:-} go build -tags noembed -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.release=${VERSION}" -o /ifacebridge ./cmd/ifacebridge

FROM scratch
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="ifacebridge" \
      org.opencontainers.image.description="Publishes every network interface event of a Linux host to NATS" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /ifacebridge /ifacebridge
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/ifacebridge", "healthcheck"]
ENTRYPOINT ["/ifacebridge"]
