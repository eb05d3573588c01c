package policy

import (
	"errors"
	"strings"
	"testing"
)

// problemCase is a file and the text of every mistake in it. "P: " begins the one
// policy in whose mapping the text is.
type problemCase struct{ name, file, want string }

func TestProblemsOfForm(t *testing.T) {
	for _, tt := range []problemCase{
		{"empty", ``, `the file says nothing (leave --config out for the defaults)`},
		{"only comments", "# nothing\n", `the file says nothing (leave --config out for the defaults)`},
		{"only dashes", "---\n", `the file says nothing (leave --config out for the defaults)`},
		{"null", `~`, `1:1: has no value (give it a mapping, or remove the key)`},
		{"list at the top", `- a`, `1:1: is not a mapping (write lines of key: value)`},
		{"text at the top", `hello`, `1:1: is not a mapping (write lines of key: value)`},
		{"two documents", "agent: {}\n---\nagent: {}", `3:1: a second document begins (keep one, without ---)`},
		{"not YAML", `agent: {socket: /a`, `1:8: not YAML: could not find flow mapping end token '}' (check indentation, quotes and brackets)`},
		{"bad indent", "agent:\n  socket: /a\n pins: /b", `3:2: not YAML: value is not allowed in this context (check indentation, quotes and brackets)`},
		{"tab", "agent:\n\tsocket: /a", `2:1: not YAML: found character ' ' that cannot start any token (check indentation, quotes and brackets)`},
		{"unknown at the top", `agnet: {}`, `1:1: agnet: unknown key (did you mean agent?)`},
		{"unknown far away", `zzzzzzzzzz: 1`, `1:1: zzzzzzzzzz: unknown key (valid: agent, runtimes, quarantine, policies)`},
		{"unknown below", "agent:\n  evidence:\n    max_byte: 1GiB", `3:5: agent.evidence.max_byte: unknown key (did you mean max_bytes?)`},
		{"unprintable key", "agent: {\"a\\nb\": 1, \"\": 2}", `1:9: agent."a\nb": unknown key (valid: socket, pins, state, run, evidence)
1:20: agent."": unknown key (valid: socket, pins, state, run, evidence)`},
		{"duplicate", `agent: {run: /a, run: /b}`, `1:18: agent.run: the key is there twice, first in line 1 (remove one)`},
		{"anchor", `agent: &a {run: /a}`, `1:8: agent: anchors, aliases and tags are not read here (write the value out)`},
		{"alias", "agent: &a {run: /a}\nquarantine: *a", `1:8: agent: anchors, aliases and tags are not read here (write the value out)
2:13: quarantine: anchors, aliases and tags are not read here (write the value out)`},
		{"merge", "agent: {run: /a}\nruntimes:\n  <<: {runc: {enabled: false}}", `3:3: runtimes: merged and compound keys are not read here (write the values out)`},
		{"tag", `agent: {run: !!str /a}`, `1:14: agent.run: anchors, aliases and tags are not read here (write the value out)`},
		{"number as a key", `1: 2`, `1:1: 1: the key is not text (write it in quotes)`},
		{"compound key", "? [a]\n: b", `2:1: not YAML: found an invalid key for this map (check indentation, quotes and brackets)`},
		{"no value", `agent:`, `1:8: agent: has no value (give it a mapping, or remove the key)`},
		{"no value 2", `agent: {run: }`, `1:13: agent.run: has no value (give it a single value, or remove the key)`},
		{"no value in list", `runtimes: {runc: {roots: [~]}}`, `1:27: runtimes.runc.roots[0]: has no value (give it a single value, or remove the key)`},
		{"mapping wanted", `agent: [a]`, `1:8: agent: is not a mapping (write lines of key: value)`},
		{"list wanted", `runtimes: {runc: {roots: /a}}`, `1:26: runtimes.runc.roots: is not a list (write [a, b], or lines that begin with -)`},
		{"value wanted", `agent: {run: [a]}`, `1:14: agent.run: is not a single value (write key: value)`},
	} {
		t.Run(tt.name, func(t *testing.T) { checkProblems(t, tt.file, tt.want) })
	}
}

func TestProblemsOfAgent(t *testing.T) {
	for _, tt := range []problemCase{
		{"empty text", `agent: {run: ""}`, `1:14: agent.run: is empty (give it a value, or remove the key)`},
		{"control character", `agent: {run: "/a\u0007b"}`, `1:14: agent.run: has the character U+0007, which cannot be seen (remove it)`},
		{"number as text", `P: select: {name: 12}`, `2:28: policies[0].select.name: 12 is not text (write "12", in quotes)`},
		{"bool as text", `P: select: {labels: {canary: true}}`, `2:39: policies[0].select.labels[canary]: true is not text (write "true", in quotes)`},
		{"bool", `P: inside: yes`, `2:21: policies[0].inside: "yes" is neither true nor false (write it without quotes)`},
		{"quoted number", `P: drops: {limit: "5"}`, `2:28: policies[0].drops.limit: "5" is not a whole number (write it without quotes)`},
		{"float", `P: drops: {limit: 1.5}`, `2:28: policies[0].drops.limit: "1.5" is not a whole number (write it without quotes)`},
		{"hex", `P: drops: {limit: 0x10}`, `2:28: policies[0].drops.limit: 0x10 is not a plain number (write decimal digits, at most 1000000000)`},
		{"negative", `P: drops: {limit: -1}`, `2:28: policies[0].drops.limit: -1 is out of bounds (from 0 to 1000000000)`},
		{"relative path", `agent: {state: var/lib}`, `1:16: agent.state: "var/lib" is not an absolute path (begin it with a slash)`},
		{"unclean path", `agent: {state: /var//lib}`, `1:16: agent.state: "/var//lib" is not in its shortest form (write /var/lib)`},
		{"root", `agent: {state: /}`, `1:16: agent.state: / is not a place for it (name a directory of its own)`},
		{"socket address", `runtimes: {containerd: {address: "unix:///run/c.sock"}}`, `1:34: runtimes.containerd.address: "unix:///run/c.sock" is an address (write the path only: /run/c.sock)`},
		{"socket too long", `agent: {socket: /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}`, `1:17: agent.socket: is longer than 107 bytes, the most that unix(7) lets a socket's path have (shorten it)`},
		{"binary", `runtimes: {runc: {binary: ./runc}}`, `1:27: runtimes.runc.binary: "./runc" is not an absolute path (begin it with a slash)`},
		{"state is run", `agent: {state: /run/reprieve}`, `1:9: agent.state: is the same directory as run (state survives a reboot, run does not: give each its own)`},
		{"size without unit", `agent: {evidence: {max_bytes: 20GX}}`, `1:31: agent.evidence.max_bytes: "20GX" has no unit of size (did you mean GB?)`},
		{"size no number", `agent: {evidence: {max_bytes: lots}}`, `1:31: agent.evidence.max_bytes: "lots" is no size (write a whole number and a unit, such as 20GiB)`},
		{"size fraction", `agent: {evidence: {max_bytes: 1.5GiB}}`, `1:31: agent.evidence.max_bytes: "1.5GiB" is no size (write a whole number and a unit, such as 20GiB)`},
		{"size overflow", `agent: {evidence: {max_bytes: 9000PiB}}`, `1:31: agent.evidence.max_bytes: "9000PiB" is more than can be counted (at most 8191PiB)`},
		{"size bounds", `agent: {evidence: {max_bytes: 20}}`, `1:31: agent.evidence.max_bytes: 20B is out of bounds (from 1MiB to 1PiB)`},
		{"count bounds", `agent: {evidence: {max_count: 0}}`, `1:31: agent.evidence.max_count: 0 is out of bounds (from 1 to 1000000)`},
		{"age bounds", `agent: {evidence: {max_age: 1s}}`, `1:29: agent.evidence.max_age: 1s is out of bounds (from 1m to 87600h)`},
		{"bridge too long", `quarantine: {bridge: reprieve-quarantine}`, `1:22: quarantine.bridge: "reprieve-quarantine" has 19 bytes, and a network device's name at most 15 (shorten it)`},
		{"bridge slash", `quarantine: {bridge: a/b}`, `1:22: quarantine.bridge: "a/b" is no name of a network device (no slash, colon or space)`},
		{"examiner", `quarantine: {examiners: [example.org]}`, `1:26: quarantine.examiners[0]: "example.org" is neither an address nor a prefix (write such as 10.99.0.200 or 10.99.0.0/24)`},
		{"examiner bits", `quarantine: {examiners: [10.99.0.200/24]}`, `1:26: quarantine.examiners[0]: 10.99.0.200/24 has bits beyond its length (write 10.99.0.0/24, or 10.99.0.200/32 for one address)`},
		{"examiner all", `quarantine: {examiners: [0.0.0.0/0]}`, `1:26: quarantine.examiners[0]: 0.0.0.0/0 lets everybody through the fence (name the examiners' own network)`},
		{"examiner zone", `quarantine: {examiners: ["fe80::1%eth0"]}`, `1:26: quarantine.examiners[0]: fe80::1%eth0 has a zone (examiners are known by address alone: leave %eth0 out)`},
		{"examiner mapped", `quarantine: {examiners: ["::ffff:10.0.0.0/104"]}`, `1:26: quarantine.examiners[0]: ::ffff:10.0.0.0/104 is IPv4 in the guise of IPv6 (write it as IPv4)`},
		{"examiner twice", `quarantine: {examiners: [10.0.0.1, 10.0.0.1/32]}`, `1:36: quarantine.examiners[1]: 10.0.0.1/32 is there twice, first as quarantine.examiners[0] (remove one or rename it)`},
	} {
		t.Run(tt.name, func(t *testing.T) { checkProblems(t, tt.file, tt.want) })
	}
}

func TestProblemsOfPolicies(t *testing.T) {
	for _, tt := range []problemCase{
		{"no name", `policies: [{mode: audit}]`, `1:12: policies[0].name: is missing (incidents are reported under it)`},
		{"bad name", `policies: [{name: a b}]`, `1:19: policies[0].name: "a b" has ' ' in it (use letters, digits, and . _ -)`},
		{"long name", `policies: [{name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}]`, `1:19: policies[0].name: has 65 bytes (at most 63)`},
		{"same name", "policies:\n- {name: a, select: {name: b}}\n- name: a", `3:3: policies[1]: a is there twice, first as policies[0] (remove one or rename it)`},
		{"unreachable", `policies: [{name: a}, {name: b}]`, `1:23: policies[1]: never matches: policy "a" before it selects everything (move it up)`},
		{"runtime", `P: select: {runtime: podman}`, `2:31: policies[0].select.runtime: unknown runtime "podman" (valid: runc, containerd)`},
		{"runtime near", `P: select: {runtime: contanerd}`, `2:31: policies[0].select.runtime: unknown runtime "contanerd" (did you mean containerd?)`},
		{"glob bracket", `P: select: {name: "web-[ab"}`, `2:28: policies[0].select.name: a [ is not closed (add ], or write \[ for a bracket itself)`},
		{"glob backslash", `P: select: {image: 'a\'}`, `2:29: policies[0].select.image: nothing follows the last backslash (write \\ for a backslash itself)`},
		{"glob range", `P: select: {name: "[z-a]"}`, `2:28: policies[0].select.name: the range z-a is empty (write a-z)`},
		{"cgroup", `P: select: {cgroup: "k8s.io/*"}`, `2:22: policies[0].select.cgroup: "k8s.io/*" never matches: cgroup paths begin with a slash (write "/k8s.io/*")`},
		{"runc namespace", `P: select: {runtime: runc, namespace: a}`, `2:37: policies[0].select.namespace: never matches: runc has no namespaces (leave it out)`},
		{"mode", `P: mode: faulti`, `2:19: policies[0].mode: unknown mode "faulti" (did you mean faulty?)`},
		{"fault", `P: faults: [out-of-memory, oom]`, `2:22: policies[0].faults[0]: unknown fault "out-of-memory" (valid: fatal-signal, exit, oom, stop, hang, drops, manual)`},
		{"fault twice", `P: faults: [oom, oom]`, `2:27: policies[0].faults[1]: oom is there twice, first as faults[0] (remove one or rename it)`},
		{"signal", `P: signals: [TREM]`, `2:23: policies[0].signals[0]: unknown signal "TREM" (did you mean TERM?)`},
		{"signal case", `P: signals: [sigterm]`, `2:23: policies[0].signals[0]: unknown signal "sigterm" (did you mean TERM?)`},
		{"signal far", `P: signals: [9]`, `2:23: policies[0].signals[0]: unknown signal "9" (valid: HUP, INT, QUIT, ILL, TRAP, ABRT, BUS, FPE, KILL, USR1, SEGV, USR2, PIPE, ALRM, TERM, STKFLT, STOP, TSTP, TTIN, TTOU, XCPU, XFSZ, VTALRM, PROF, IO, PWR, SYS)`},
		{"signal harmless", `P: signals: [CHLD]`, `2:23: policies[0].signals[0]: CHLD stops nothing (leave it out)`},
		{"signal twice", `P: signals: [TERM, SIGTERM]`, `2:29: policies[0].signals[1]: SIGTERM is there twice (remove one)`},
		{"no signals", `P: signals: []`, `2:22: policies[0].signals: holds nothing (name the signals to hold, use mode: audit, or remove the key for the default)`},
		{"errno ESRCH", `P: errno: ESRCH`, `2:20: policies[0].errno: ESRCH makes kill(2) try again inside the kernel for ever, and its caller cannot be killed (use EPERM)`},
		{"errno EINTR", `P: errno: EINTR`, `2:20: policies[0].errno: EINTR makes callers try again at once, without end (use EPERM)`},
		{"errno near", `P: errno: EPREM`, `2:20: policies[0].errno: unknown errno "EPREM" (did you mean EPERM?)`},
		{"errno far", `P: errno: 1`, `2:20: policies[0].errno: unknown errno "1" (use EPERM)`},
		{"no unit", `P: hold: 15`, `2:19: policies[0].hold: 15 has no unit (write 15s for seconds)`},
		{"no duration", `P: hold: soon`, `2:19: policies[0].hold: "soon" is no duration (write such as 500ms, 15m or 1h30m)`},
		{"hold short", `P: hold: 100ms`, `2:19: policies[0].hold: 100ms is out of bounds (from 1s to 24h)`},
		{"hold long", `P: hold: 48h`, `2:19: policies[0].hold: 48h is out of bounds (from 1s to 24h)`},
		{"judge bounds", `P: judge: 1m`, `2:20: policies[0].judge: 1m is out of bounds (from 10ms to 30s)`},
		{"judge", `P: hold: 1s, judge: 2s`, `2:23: policies[0].judge: 2s is longer than hold, 1s: the guard lapses before the verdict (lower judge or raise hold)`},
		{"exit hold", `P: hold: 1m, exit_hold_limit: 2m`, `2:23: policies[0].exit_hold_limit: 2m is longer than hold, 1m: the guard lapses first (lower exit_hold_limit or raise hold)`},
		{"retention", `P: hold: 15m, retention: 1h`, `2:24: policies[0].retention: 1h is longer than hold, 15m: the guard lapses first (lower retention or raise hold)`},
		{"reset", `P: actions: {fence: false, reset: true}`, `2:37: policies[0].actions.reset: resets connections that may come back at once while fence is false (fence, too, or do not reset)`},
		{"drops without a limit", `P: faults: [drops]`, `2:13: policies[0].faults: drops is a fault, but no rate makes it one (set drops.limit, packets a second)`},
		{"limit without drops", `P: faults: [oom], drops: {limit: 1}`, `2:28: policies[0].drops: has a limit, but drops is no fault of this policy (add drops to faults)`},
		{"probe without hang", `P: faults: [oom], probe: {tcp: ":80"}`, `2:28: policies[0].probe: has no effect: hang is no fault of this policy (add hang to faults)`},
		{"probe of nothing", `P: probe: {period: 1s}`, `2:20: policies[0].probe: asks nothing (give it http: "http://:8080/healthz" or tcp: ":8080")`},
		{"probe of both", `P: probe: {tcp: ":80", http: "http://:80"}`, `2:21: policies[0].probe.tcp: is given beside http (a probe is one of both)`},
		{"probe timeout", `P: probe: {tcp: ":80", timeout: 2s}`, `2:33: policies[0].probe.timeout: 2s is longer than period, 1s: tries would pile up (lower timeout or raise period)`},
		{"probe URL", `P: probe: {http: ":8080/healthz"}`, `2:27: policies[0].probe.http: ":8080/healthz" is no URL of http or https (write such as http://:8080/healthz)`},
		{"probe URL user", `P: probe: {http: "http://me:secret@:80/"}`, `2:27: policies[0].probe.http: "http://me:xxxxx@:80/" has more than address, path and query (leave user and fragment out)`},
		{"probe URL colon", `P: probe: {http: "http://a:/"}`, `2:27: policies[0].probe.http: "http://a:/" has a colon and no port (write such as http://:8080/healthz)`},
		{"probe URL port", `P: probe: {http: "http://:99999/"}`, `2:27: policies[0].probe.http: port "99999" is none (from 1 to 65535)`},
		{"probe address", `P: probe: {tcp: 8080}`, `2:26: policies[0].probe.tcp: 8080 is not text (write "8080", in quotes)`},
		{"probe address text", `P: probe: {tcp: "localhost"}`, `2:26: policies[0].probe.tcp: "localhost" is not host:port (write such as :8080)`},
		{"probe port", `P: probe: {tcp: ":0"}`, `2:26: policies[0].probe.tcp: port "0" is none (from 1 to 65535)`},
		{"all at once", "agent:\n  sokcet: /a\npolicies:\n- name: a\n  mode: of\n  hold: 15\n  judge: 1h\n- name: a\n  retention: 2h\nx: 1", `2:3: agent.sokcet: unknown key (did you mean socket?)
5:9: policies[0].mode: unknown mode "of" (valid: audit, faulty, always)
6:9: policies[0].hold: 15 has no unit (write 15s for seconds)
7:10: policies[0].judge: 1h is out of bounds (from 10ms to 30s)
8:3: policies[1]: never matches: policy "a" before it selects everything (move it up)
9:3: policies[1].retention: 2h is longer than hold, 15m: the guard lapses first (lower retention or raise hold)
10:1: x: unknown key (valid: agent, runtimes, quarantine, policies)`},
	} {
		t.Run(tt.name, func(t *testing.T) { checkProblems(t, tt.file, tt.want) })
	}
}

func checkProblems(t *testing.T, file, want string) {
	t.Helper()
	if in, ok := strings.CutPrefix(file, "P: "); ok {
		file = "policies:\n- {name: a, " + in + "}"
	}
	c, err := Parse([]byte(file))
	if err == nil {
		t.Fatalf("parsed as\n%s\nwant %s", c, want)
	}
	if err.Error() != want {
		t.Errorf("got:\n%s\nwant:\n%s", err, want)
	}
}

func TestBounds(t *testing.T) {
	var many strings.Builder
	for range 60 {
		many.WriteString("- {mode: x}\n")
	}
	for _, tt := range []problemCase{
		{"size", strings.Repeat("#", maxFile+1), "the file is larger than 1MiB (is it the configuration?)"},
		{"lines", strings.Repeat("\n", maxLines), "the file has more than 20000 lines (is it the configuration?)"},
		{"line", "a\n" + strings.Repeat("- ", maxLine), "2:1: the line is longer than 4KiB (break it)"},
		{"brackets", strings.Repeat("[", 33), "1:1: more than 32 brackets are open (write lists as lines that begin with -)"},
		{"brackets over lines", strings.Repeat("{a:\n", 33), "33:1: more than 32 brackets are open (write lists as lines that begin with -)"},
		{"binary", "\xff\xfe", "the file is not UTF-8 text (is it the configuration?)"},
		{"text", "agent: {run: /" + strings.Repeat("a", maxText) + "}", "1:14: agent.run: is longer than 512 bytes (shorten it)"},
		{"items", "policies:\n" + strings.Repeat("- {}\n", maxItems+1), "2:1: policies: has 257 entries, more than 256 (is it the configuration?)"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkProblems(t, tt.file, tt.want) })
	}
	_, err := Parse([]byte("policies:\n" + many.String()))
	if err == nil || !strings.HasSuffix(err.Error(), "\nand 71 more (mend these first)") || strings.Count(err.Error(), "\n") != maxProblems {
		t.Errorf("many problems: %v", err)
	}
}

func TestProblemsAreTyped(t *testing.T) {
	_, err := Parse([]byte("agent:\n  pins: x\n"))
	var p *Problem
	if !errors.As(err, &p) || p.Line != 2 || p.Column != 9 || p.Key != "agent.pins" || p.Unwrap() == nil {
		t.Errorf("%+v of %v", p, err)
	}
}
