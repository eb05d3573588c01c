// Package gen is what bpf2go makes of bpf/: the compiled programs and the Go
// types of the records in bpf/reprieve.h. Nothing in it is written by hand
// but this file; loader is its only user.
package gen

//go:generate go tool bpf2go -go-package gen -target bpfel -cc $BPF_CC -strip $BPF_STRIP -cflags "$BPF_CFLAGS" -type root_key Guard ../bpf/guard.bpf.c
//go:generate go tool bpf2go -go-package gen -target bpfel -cc $BPF_CC -strip $BPF_STRIP -cflags "$BPF_CFLAGS" -type guard -type fence -type subject -type subject_flag -type newborn -type agent -type event -type guard_mode -type guard_flag -type fault_kind -type way -type event_kind -type event_flag -type counter Watch ../bpf/watch.bpf.c
//go:generate go tool bpf2go -go-package gen -target bpfel -cc $BPF_CC -strip $BPF_STRIP -cflags "$BPF_CFLAGS" -type drop_key Drops ../bpf/drops.bpf.c
//go:generate go tool bpf2go -go-package gen -target bpfel -cc $BPF_CC -strip $BPF_STRIP -cflags "$BPF_CFLAGS" -type prefix Fence ../bpf/fence.bpf.c
//go:generate go tool bpf2go -go-package gen -target bpfel -cc $BPF_CC -strip $BPF_STRIP -cflags "$BPF_CFLAGS" -type order -type order_verb Orders ../bpf/orders.bpf.c
