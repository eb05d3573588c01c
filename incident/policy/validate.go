package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"unicode"
)

// checkPath wants a path that means the same to everybody.
func checkPath(s string) error {
	if !filepath.IsAbs(s) {
		return fmt.Errorf("%q is not an absolute path (begin it with a slash)", s)
	}
	if clean := filepath.Clean(s); clean != s {
		return fmt.Errorf("%q is not in its shortest form (write %s)", s, clean)
	}
	if s == "/" {
		return errors.New("/ is not a place for it (name a directory of its own)")
	}
	return nil
}

// checkPins wants a directory that a bpffs takes: it refuses names with a dot.
func checkPins(s string) error {
	if name := filepath.Base(s); strings.Contains(name, ".") {
		return fmt.Errorf("%q has a dot in %q, which bpffs refuses (write it without)", s, name)
	}
	return checkPath(s)
}

// checkSocket wants the path of a unix socket.
func checkSocket(s string) error {
	if bare := strings.TrimPrefix(s, "unix://"); bare != s {
		return fmt.Errorf("%q is an address (write the path only: %s)", s, bare)
	}
	if len(s) > 107 {
		return errors.New("is longer than 107 bytes, the most that unix(7) lets a socket's path have (shorten it)")
	}
	return checkPath(s)
}

// checkBinary wants a name to look up in PATH, or an absolute path.
func checkBinary(s string) error {
	if !strings.Contains(s, "/") {
		return nil
	}
	return checkPath(s)
}

// checkBridge is dev_valid_name of the kernel, net/core/dev.c.
func checkBridge(s string) error {
	if len(s) > 15 {
		return fmt.Errorf("%q has %d bytes, and a network device's name at most 15 (shorten it)", s, len(s))
	}
	if s == "." || s == ".." || strings.ContainsAny(s, "/:") || strings.ContainsFunc(s, unicode.IsSpace) {
		return fmt.Errorf("%q is no name of a network device (no slash, colon or space)", s)
	}
	return nil
}

// checkName wants a name that can stand in a label, a file name and a metric.
func checkName(s string) error {
	if len(s) > 63 {
		return fmt.Errorf("has %d bytes (at most 63)", len(s))
	}
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return fmt.Errorf("%q has %q in it (use letters, digits, and . _ -)", s, r)
		}
	}
	return nil
}

// parsePrefix reads an address or a prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if addr, e := netip.ParseAddr(s); e == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%s has a zone (examiners are known by address alone: leave %%%s out)", s, addr.Zone())
		}
		addr = addr.Unmap()
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix (write such as 10.99.0.200 or 10.99.0.0/24)", s)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 in the guise of IPv6 (write it as IPv4)", s)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length (write %s, or %s/%d for one address)", s, m, p.Addr(), p.Addr().BitLen())
	}
	if p.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%s lets everybody through the fence (name the examiners' own network)", s)
	}
	return p, nil
}
