# Every target installs what it lacks on a Debian machine that has git, make, Go
# and apt, and says what and why. The pinned clang is needed by generate only:
# what it makes is committed.

CLANG      := 19
FUZZTIME   ?= 30s
PREFIX     ?= /usr/local
VERSION    := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
BPF_SOURCE := $(wildcard bpf/*.c bpf/*.h)
PACKAGES   := ./...
# What depends on the kernel most is tested on all of them, the rest on the
# middle one; all of it runs natively, too.
KERNELS_SHORT ?= 6.1,7
KERNEL_FULL   ?= 6.12
VM_KERNEL := ./loader ./isolate ./isolate/exithold
VM_FULL   := $(VM_KERNEL) ./incident ./detect ./workload ./isolate/evidence
GUARD     := Guard|WantedStopIs|Healthy|Deadline|StopWithout
VMTEST   := go run ./vmtest/cmd/vmtest -timeout 15m -deadline 45m

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
		kmod depmod "kernel modules for the VMs" \
		nftables nft "rules inside the VMs" \
		e2fsprogs mke2fs "makes the VMs' disk" \
		xz-utils xz "unpacks kernel packages"

generate: need-generate
	go generate ./gen ./api

lint: need-generate
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these"; exit 1; }
	clang-format-$(CLANG) --dry-run --Werror $(BPF_SOURCE)
	go vet $(PACKAGES)
	go tool staticcheck $(PACKAGES)
	go mod verify >/dev/null

# All tests: on this host, and in VMs.
test: unit vmtest

unit: need-native
	go test -count=1 $(PACKAGES)

# Without the scripts of the command line: they test processes, not goroutines.
race: need-native
	go test -count=1 -race -short $$(go list $(PACKAGES) | grep -v cmd/reprieve)

# Two at a time: one fuzzer has one worker.
fuzz:
	@for package in $$(go list ./...); do \
		go test -list '^Fuzz' $$package | sed -n "s|^Fuzz.*|$$package &|p"; \
	done | xargs -P 2 -L 1 sh -c 'echo "fuzz $$0 $$1"; \
		go test -run "^$$" -parallel 1 -fuzz "^$$1$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$0 >/tmp/fuzz.$$1 2>&1 || \
		{ cat /tmp/fuzz.$$1; exit 255; }; rm -f /tmp/fuzz.$$1'

# One VM at a time: two on two cores make each so slow that the exit hold loses
# the race that docs/design.md tells of. What fails is tried once more, and both
# runs are in the log.
vmtest: need-vm
	$(call twice,$(VMTEST) -j 1 -kernels $(KERNEL_FULL) $(VM_FULL))
	$(call twice,$(VMTEST) -j 1 -kernels $(KERNELS_SHORT) $(VM_KERNEL))
	$(call twice,$(VMTEST) -j 1 -kernels $(KERNELS_SHORT) -short -run '$(GUARD)' ./incident)

twice = $(1) || { echo "vmtest: FAILED once; once more" && $(1); }

# The real thing on this host: DEMO="-only native", "-runtime runc", "-v".
demo: need-vm build
	CGO_ENABLED=0 go build -trimpath -o build/demo-app ./demo/app
	CGO_ENABLED=0 go build -trimpath -o build/demo ./demo
	build/demo $(DEMO)

install: build
	install -D -m 0755 build/reprieve $(DESTDIR)$(PREFIX)/bin/reprieve

clean:
	rm -rf build
