package workload_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/reprieve-dev/reprieve/workload"
	"github.com/reprieve-dev/reprieve/workload/workloadtest"
)

func TestNetworkOfBridged(t *testing.T) {
	f := workloadtest.Runc(t)
	bridge := workloadtest.NewBridge(t, netip.MustParsePrefix("10.91.173.1/24"))
	port := bridge.Attach(t)
	original := f.Start(t, workloadtest.Spec{NetNS: port.NetNS, Args: workloadtest.Httpd("80")})
	n := mustNetwork(t, original)
	if n.Host || n.NetNS != mustInode(t, port.NetNS) || len(n.Interfaces) != 1 {
		t.Fatalf("network is %+v, want one interface in %d", n, mustInode(t, port.NetNS))
	}
	eth0 := n.Interfaces[0]
	if eth0.Name != "eth0" || eth0.Kind != "veth" || !eth0.Up || eth0.MAC == "" || eth0.MTU != 1500 || !slices.Contains(eth0.Addrs, port.Addr) {
		t.Errorf("interface is %+v, want eth0 with %s", eth0, port.Addr)
	}
	viaGateway := func(r workload.Route) bool { return r.Dst.Bits() == 0 && r.Via == bridge.Gateway.Addr() && !r.Kernel }
	if !slices.ContainsFunc(eth0.Routes, viaGateway) {
		t.Errorf("routes are %+v, want a default one by %s", eth0.Routes, bridge.Gateway)
	}
	if p := eth0.Peer; p == nil || p.Name != port.Veth || p.Bridge != bridge.Name || p.BridgeIndex != bridge.Index {
		t.Errorf("host side is %+v, want %s on %s", p, port.Veth, bridge.Name)
	}
	sameAfterJSON(t, n)
	sameAt(t, n, port.NetNS)
	servesReplacement(t, f, original, port)
}

func sameAfterJSON(t *testing.T, n workload.Network) {
	t.Helper()
	data, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var back workload.Network
	if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(n, back) {
		t.Errorf("%s reads back as %+v, %v", data, back, err)
	}
}

func sameAt(t *testing.T, n workload.Network, path string) {
	t.Helper()
	if at, err := workload.NetworkAt(path); err != nil || at.NetNS != n.NetNS {
		t.Errorf("NetworkAt gives %+v, %v, want %d", at, err, n.NetNS)
	}
}

// servesReplacement replaces a dead web server on its own network.
func servesReplacement(t *testing.T, f *workloadtest.Fixture, original workload.Workload, port workloadtest.Port) {
	t.Helper()
	original = f.Kill(t, original)
	if _, err := workload.NetworkOf(1 << 22); !errors.Is(err, workload.ErrNotFound) {
		t.Errorf("network of a process that cannot exist: %v, want ErrNotFound", err)
	}
	mustStart(t, f, mustCreate(t, f, original, workload.Plan{}).Ref)
	workloadtest.Await(t, "the replacement to serve", func() bool {
		answer, err := http.Get("http://" + port.Addr.Addr().String() + "/index.html")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}
