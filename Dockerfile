# The image is one fully static binary and nothing else.
#
#   docker build -t podbay .                        compiles inside a Rust image (the default)
#   docker build -t podbay --target prebuilt .      uses dist/podbay as it is (scripts/image.sh builds it)
#
# What the container needs from the host is in deploy/README.md.

FROM scratch AS prebuilt
COPY dist/podbay /podbay
ENTRYPOINT ["/podbay"]
CMD ["agent"]

FROM docker.io/library/rust:1.95-bookworm AS build
# protoc: for the containerd client crate's own build script.
RUN apt-get update \
    && apt-get install -y --no-install-recommends protobuf-compiler \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# --target keeps the flag away from build scripts and procedural macros, which cannot be static.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && cargo build --locked --release --bin podbay --target "$target" \
    && install -D "target/$target/release/podbay" /out/podbay \
    && ! readelf -l /out/podbay | grep -q INTERP

FROM scratch
LABEL org.opencontainers.image.title="podbay" \
      org.opencontainers.image.description="A Kubernetes-style node agent: runs pods on containerd through gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/podbay /podbay
ENTRYPOINT ["/podbay"]
CMD ["agent"]
