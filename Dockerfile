# The images of kctl: buildah bud --target agent|controller|kctl. Nothing is compiled here; the context is a
# folder with static binaries that "cargo xtask images" lays out.

FROM scratch AS base
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.source=https://github.com/kctl-project/kctl \
      org.opencontainers.image.licenses=Apache-2.0
# What is inside, for a scanner: every crate with its version and checksum.
COPY LICENSE Cargo.lock /usr/share/doc/kctl/
ENV PATH=/usr/bin

FROM base AS agent
LABEL org.opencontainers.image.title=kctl-agent
COPY kctl-agent /usr/bin/
ENTRYPOINT ["/usr/bin/kctl-agent"]

FROM base AS controller
LABEL org.opencontainers.image.title=kctl-controller
COPY kctl-controller /usr/bin/
COPY --chown=65532:65532 data /var/lib/kctl/
USER 65532:65532
VOLUME /var/lib/kctl
EXPOSE 7443
ENTRYPOINT ["/usr/bin/kctl-controller"]

FROM base AS kctl
LABEL org.opencontainers.image.title=kctl
COPY kctl /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/kctl"]
