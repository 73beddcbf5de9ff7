# Causeway: build, run, test. `make` alone says what there is.

target := x86_64-unknown-none
image := target/causeway
# Flags of the image come from one place, since cargo adds up what it finds in
# several. The sysroot is empty where the toolchain has the target itself.
image_flags = $${sysroot:+--sysroot $$sysroot }-C link-arg=-T$(CURDIR)/linker.ld -C relocation-model=static
host := --workspace --exclude boot
SECONDS ?= 60
ROUNDS ?= 5

.DEFAULT_GOAL := help
.PHONY: help build run test check lab bench soak fuzz bindings clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## the image: target/causeway, and its symbols in target/causeway.debug
	@sysroot=$$(boot/sysroot.sh) && \
	    RUSTFLAGS="$(image_flags)" cargo build --release --target $(target) -p boot
	@objcopy --only-keep-debug target/$(target)/release/causeway $(image).debug
	@cd target && objcopy --strip-all --add-gnu-debuglink=causeway.debug \
	    $(target)/release/causeway causeway
	@size=$$(stat -c %s $(image)); echo "$(image): $$size bytes"; \
	    [ "$$size" -le 1048576 ] || { echo "the image is over 1 MiB"; exit 1; }

run: build ## Xen in QEMU, Causeway with its NIC, guests talking through it
	cargo run --release -p lab -- demo $(image)

test: check lab ## everything that can fail: formatting, lints, host tests, the lab

check: build ## formatting, lints and the tests that need no Xen
	cargo fmt --all --check
	cargo clippy $(host) --all-targets --all-features -- -D warnings
	sysroot=$$(boot/sysroot.sh) && RUSTFLAGS="$(image_flags)" \
	    cargo clippy --release --target $(target) -p boot -- -D warnings
	cargo test $(host) -- --show-output

lab: build ## the tests on real Xen in QEMU
	cargo run --release -p lab -- test $(image)

bench: build ## Causeway beside Linux driver domains on real Xen, and what a packet costs: docs/bench
	cargo bench -p bench
	cargo run --release -p bench -- report docs/bench
	cargo run --release -p lab -- bench $(image) --rounds $(ROUNDS)

soak: build ## larger worlds, many more cases; 1 GiB, 200 attachments, a crowd on real Xen
	SOAK=1 cargo test -p worlds -- --show-output
	cargo run --release -p lab -- test $(image) soak reattach-often destroy-often crowd

fuzz: ## hostile rings, XenStore values, NICs and frames by libFuzzer, SECONDS=60 of each
	tests/fuzz/run $(SECONDS)

bindings: ## generate kernel/xen/src/bindings.rs from Xen's headers
	kernel/xen/bindings/generate

clean: ## remove what was built here (not the caches outside)
	cargo clean
