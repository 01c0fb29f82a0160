# One command each; `make help` lists them. Everything runs as root on one Linux host.
SHELL := /bin/bash
export KIT_PARTS ?= /opt/podbay-parts/bin
export CARGO_TERM_PROGRESS_WHEN ?= never
CARGO := cargo --locked

.PHONY: help demo test fuzz check fmt build bench critest kubelet image clean
.NOTPARALLEL:

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | column -t -s "$$(printf '\t')"

demo: ## install what is missing and watch a real pod live and go
	@scripts/setup.sh demo
	@scripts/demo.sh

test: ## install what is missing, then everything CI runs
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory check
	@scripts/test.sh

fuzz: ## a minute of every fuzz target (make test gives them two seconds)
	KIT_FUZZ_SECONDS=60 $(CARGO) test --test fuzz -- --nocapture

check: ## format, lints, docs, licences: no warning passes
	cargo fmt --check
	$(CARGO) clippy -q --all-targets -- -D warnings
	$(CARGO) clippy -q --test kubelet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --no-deps --lib --document-private-items
	@deny=$$(PATH="$(KIT_PARTS):$$PATH" command -v cargo-deny) || { echo "cargo-deny is missing: run scripts/setup.sh test"; exit 1; }; \
	"$$deny" --log-level error check licenses bans sources

build: ## the release binary, target/release/podbay
	$(CARGO) build --release --bin podbay

bench: ## side by side against containerd's own CRI plugin; writes target/bench.json
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	$(CARGO) run -q --profile driver --example side_by_side -- $(BENCH_ARGS)

critest: ## the CRI conformance suite of Kubernetes on the release binary, on both containerd lines
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@scripts/critest.sh
	@KIT_LINE=1 scripts/critest.sh

kubelet: ## a real kubelet on podbay, and the table of timelines on it (its build takes ten minutes)
	@scripts/setup.sh kubelet
	@$(MAKE) --no-print-directory build
	@scripts/kubelet.sh
	$(CARGO) test --test kubelet -- --test-threads=1 --nocapture

image: ## a container image of the static binary (buildah), and a run of it
	@scripts/image.sh
	@scripts/image-check.sh

clean: ## what cargo and the image build made
	cargo clean
	rm -rf dist
