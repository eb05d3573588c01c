# Every target installs what it lacks on a Debian machine that has git, make, Go
# and apt, and says what and why. The pinned clang is needed by generate only:
# what it makes is committed.

CLANG      := 19
KERNELS    ?= 6.1,6.12,7
FUZZTIME   ?= 30s
PREFIX     ?= /usr/local
VERSION    := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
BPF_SOURCE := $(wildcard bpf/*.c bpf/*.h)
PACKAGES   := ./...
# Packages whose tests need a kernel: they run natively and in every VM.
IN_VM      := ./loader ./detect ./workload ./isolate ./isolate/exithold ./isolate/network ./isolate/evidence ./recovery ./incident

export BPF_CC     := clang-$(CLANG)
export BPF_STRIP  := llvm-strip-$(CLANG)
export BPF_CFLAGS := -g -O2 -Wall -Werror -I/usr/include/$(shell gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)

.PHONY: build generate lint test unit race fuzz vmtest bench demo install clean need-build need-native need-vm need-generate

build: build/reprieve

build/reprieve: $(shell find . -name '*.go' -o -name '*_bpfel.o' | grep -v '/build/') go.mod go.sum
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $@ ./cmd/reprieve

need-generate:
	@tools/need clang-$(CLANG) clang-$(CLANG) "compiles bpf/" \
		llvm-$(CLANG) llvm-strip-$(CLANG) "strips bpf/ objects" \
		clang-format-$(CLANG) clang-format-$(CLANG) "checks the format of bpf/" \
		libbpf-dev /usr/include/bpf/bpf_helpers.h "BPF helper declarations" \
		linux-libc-dev /usr/include/linux/bpf.h "kernel ABI headers" \
		protobuf-compiler protoc "compiles api/"

need-native:
	@tools/need runc runc "a real runtime for the tests" \
		containerd containerd "a real runtime for the tests" \
		busybox-static /bin/busybox "the test containers' programs" \
		iproute2 ip "lets you look at the demo's networks" \
		gdb gdb "opens the cores that evidence takes" \
		kmod modprobe "loads kernel modules"

need-vm: need-native
	@tools/need qemu-system-x86 qemu-system-x86_64 "boots other kernels" \
		kmod depmod "kernel modules for the VMs"

generate: need-generate
	go generate ./gen ./api

lint: need-generate
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these"; exit 1; }
	clang-format-$(CLANG) --dry-run --Werror $(BPF_SOURCE)
	go vet $(PACKAGES)
	go tool staticcheck $(PACKAGES)
	go mod verify >/dev/null && go mod tidy -diff

# All tests: on this host, under the race detector, the fuzzers, and in VMs.
test: need-native unit vmtest

unit: need-native
	go test -count=1 $(PACKAGES)

race: need-native
	go test -count=1 -race $(PACKAGES)

fuzz:
	@for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "fuzz $$package $$target $(FUZZTIME)"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

vmtest: need-vm
	go run ./vmtest/cmd/vmtest -kernels $(KERNELS) -bin ./cmd/reprieve:/usr/bin/reprieve $(IN_VM)

install: build
	install -D -m 0755 build/reprieve $(DESTDIR)$(PREFIX)/bin/reprieve

clean:
	rm -rf build
