# The broker alone, without a shell or a package manager: `docker build --build-arg BUILD_COMMIT=$(git rev-parse HEAD) .`

FROM rust:1.95-slim-bookworm AS build
RUN cargo install --locked --version 0.7.7 cargo-auditable
WORKDIR /src
COPY . .
# For `courier-token-broker --version`: the image is built without `.git`.
ARG BUILD_COMMIT=""
# The program has a list of its dependencies in it, for scanners.
RUN cargo auditable build --profile dist --locked --features otlp --bin courier-token-broker
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The program, the libraries that it loads, the certificate authorities, and a user.
RUN install -D target/dist/courier-token-broker /image/usr/bin/courier-token-broker \
    && ldd target/dist/courier-token-broker | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=/image \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && install -D -m 644 config/container/settings.toml /image/etc/courier-token-broker/settings.toml \
    && echo 'courier-token-broker:x:65532:65532::/var/lib/courier-token-broker:/nonexistent' >/image/etc/passwd \
    && echo 'courier-token-broker:x:65532:' >/image/etc/group \
    && install -d /image/var/lib && install -d -m 700 /state

FROM scratch
COPY --from=build /image /
# For a store on disk: mount a volume here. Everything else may be read-only.
COPY --from=build --chown=65532:65532 /state /var/lib/courier-token-broker
USER 65532:65532
# So that the broker knows that it is in a container, whose manager takes a moment to notice that it stops.
ENV container=oci
EXPOSE 8080
# It asks the admin listener, on loopback in the container, so it reads the same settings.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["/usr/bin/courier-token-broker", "health", "--config", "/etc/courier-token-broker/settings.toml"]
ENTRYPOINT ["/usr/bin/courier-token-broker"]
CMD ["serve", "--config", "/etc/courier-token-broker/settings.toml"]
