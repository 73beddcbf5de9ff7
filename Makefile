# Causeway: build, run, test. `make` alone says what there is.

target := x86_64-unknown-none
image := target/causeway

.DEFAULT_GOAL := help
.PHONY: help build run test check lab bindings clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## the image: target/causeway, and its symbols in target/causeway.debug
	@sysroot=$$(boot/sysroot.sh) && \
	RUSTFLAGS="$${sysroot:+--sysroot $$sysroot }-C link-arg=-T$(CURDIR)/linker.ld -C relocation-model=static -C force-frame-pointers=no" \
	    cargo build --release --target $(target) -p boot
	@objcopy --only-keep-debug target/$(target)/release/causeway $(image).debug
	@cd target && objcopy --strip-all --add-gnu-debuglink=causeway.debug $(target)/release/causeway causeway
	@size=$$(stat -c %s $(image)); echo "$(image): $$size bytes"; \
	    [ "$$size" -le 1048576 ] || { echo "the image is over 1 MiB"; exit 1; }

bindings: ## generate kernel/xen/src/bindings.rs from Xen's headers
	kernel/xen/bindings/generate

clean: ## remove what was built here (not the caches outside)
	cargo clean
