"""How fast patients travel: against the raw COPY limit, peers and earlier rounds of this project itself."""
