package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/if_link.h and include/uapi/linux/ip.h that
// neither x/sys/unix nor netlink have.
const (
	inetConf       = 1 // IFLA_INET_CONF
	confForwarding = 1 // IPV4_DEVCONF_FORWARDING
	confRPFilter   = 8
	confARPIgnore  = 19
	addrGenMode    = 8 // IFLA_INET6_ADDR_GEN_MODE
	addrGenNone    = 1 // IN6_ADDR_GEN_MODE_NONE
)

// settle brings the settings of a bridge in order and then brings it up. Each
// step may be repeated; a crash between leaves a bridge that the next Ensure
// settles, and that no veth has been moved to.
func settle(bridge netlink.Link) error {
	if err := execute(bridgeSettings(bridge)); err != nil {
		return fmt.Errorf("set options: %w", err)
	}
	if err := disableIPv6(bridge.Attrs().Name); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// bridgeSettings is one RTM_NEWLINK; the host must not be reachable by the
// bridge, though Linux answers for all its addresses on every interface.
func bridgeSettings(bridge netlink.Link) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(bridge.Attrs().Index)
	req.AddData(msg)

	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, nl.Uint8Attr(0))
	req.AddData(info)

	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil)
	conf.AddRtAttr(confForwarding, nl.Uint32Attr(0))
	conf.AddRtAttr(confRPFilter, nl.Uint32Attr(1))
	conf.AddRtAttr(confARPIgnore, nl.Uint32Attr(1))
	req.AddData(spec)
	return req
}

func execute(req *nl.NetlinkRequest) error {
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// disableIPv6 has no counterpart in netlink. A kernel without IPv6 is fine.
func disableIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("switch IPv6 off: %w (needs /proc/sys writable: run privileged)", err)
	}
	return nil
}
