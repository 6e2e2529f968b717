# A static binary, without the embedded server, in an empty image: no shell, no
# user but a number, nothing to update but the bridge.
#
# The base images are build arguments, for registries of your own.
ARG GO_IMAGE=golang:1.26
FROM ${GO_IMAGE} AS build
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
COPY --from=build /ifacebridge /ifacebridge
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["/ifacebridge", "healthcheck"]
ENTRYPOINT ["/ifacebridge"]
