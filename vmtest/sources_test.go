package vmtest

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseOneLine(t *testing.T) {
	tests := map[string]struct {
		text string
		want []aptSource
	}{
		"plain": {"deb http://mirror.example/debian bookworm main contrib # main mirror\n",
			[]aptSource{{URIs: []string{"http://mirror.example/debian"}, Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}}}},
		"options": {"deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.example/debian sid main",
			[]aptSource{{URIs: []string{"http://mirror.example/debian"}, Suites: []string{"sid"}, Components: []string{"main"}, SignedBy: "/k.gpg"}}},
		"tight options": {"deb [trusted=yes] file:/srv/repo stable main",
			[]aptSource{{URIs: []string{"file:/srv/repo"}, Suites: []string{"stable"}, Components: []string{"main"}, Trusted: "yes"}}},
		"flat":     {"deb http://mirror.example/flat ./", []aptSource{{URIs: []string{"http://mirror.example/flat"}, Suites: []string{"./"}, Components: []string{}}}},
		"sources":  {"deb-src http://mirror.example/debian bookworm main", nil},
		"disabled": {"# deb http://mirror.example/debian bookworm main\n\n", nil},
	}
	for name, test := range tests {
		if got := parseOneLine(test.text); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}

func TestParseDeb822(t *testing.T) {
	mirror := aptSource{URIs: []string{"http://mirror.example/debian"}, Suites: []string{"bookworm", "bookworm-updates"},
		Components: []string{"main"}, SignedBy: "/k.gpg"}
	const stanza = "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n"
	second := mirror
	second.Suites, second.SignedBy = []string{"a", "b"}, ""
	tests := map[string]struct {
		text string
		want []aptSource
	}{
		"one":          {stanza, []aptSource{mirror}},
		"continuation": {"types: deb\nuris: http://mirror.example/debian\nsuites: a\n b\ncomponents: main", []aptSource{second}},
		"two":          {stanza + "\n \n" + stanza, []aptSource{mirror, mirror}},
		"disabled":     {"Enabled: no\n" + stanza, nil},
		"source only":  {strings.Replace(stanza, "deb deb-src", "deb-src", 1), nil},
		"embedded key": {strings.Replace(stanza, "/k.gpg", "\n -----BEGIN\n .\n abc", 1),
			[]aptSource{{URIs: mirror.URIs, Suites: mirror.Suites, Components: mirror.Components, SignedBy: "\n -----BEGIN\n .\n abc"}}},
	}
	for name, test := range tests {
		if got := parseDeb822(test.text); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
		for _, s := range test.want {
			again := s.String()
			if got := parseDeb822(again); len(got) != 1 || got[0].String() != again {
				t.Errorf("%s: %q does not come back: %+v", name, again, got)
			}
		}
	}
}

func FuzzParseDeb822(f *testing.F) {
	f.Add("Types: deb\nURIs: u\nSuites: s\n c\n\n")
	f.Add(" continuation first\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		parseDeb822(text)
		parseOneLine(text)
	})
}

func TestReadSources(t *testing.T) {
	etc := t.TempDir()
	if err := os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"sources.list":                "deb http://mirror.example/debian bookworm main\n",
		"sources.list.d/a.list":       "deb https://third.example/apt tool-bookworm main\ndeb http://mirror.example/security bookworm-security main\n",
		"sources.list.d/b.sources":    "Types: deb\nURIs: https://other.example\nSuites: nodistro\n",
		"sources.list.d/c.list.saved": "deb http://ignored.example bookworm main\n",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all, err := readSources(etc)
	if err != nil || len(all) != 4 {
		t.Fatalf("%d sources, %v; want 4", len(all), err)
	}
	own := distribution(all, "bookworm")
	var suites []string
	for _, s := range own {
		suites = append(suites, s.Suites...)
	}
	if want := []string{"bookworm", "bookworm-security"}; !reflect.DeepEqual(suites, want) {
		t.Errorf("own suites %v, want %v", suites, want)
	}
	far := elsewhere(own, "bookworm", "sid")
	if len(far) != 1 || far[0].URIs[0] != "http://mirror.example/debian" || far[0].Suites[0] != "sid" {
		t.Errorf("elsewhere: %+v", far)
	}
	if far := elsewhere(own, "trixie", "sid"); far != nil {
		t.Errorf("elsewhere without a main mirror: %+v", far)
	}
}

func TestNewestKernel(t *testing.T) {
	names := []string{
		"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64", "linux-image-6.1.0-51-cloud-amd64-dbg",
		"linux-image-6.1.0-52-cloud-amd64-unsigned", "linux-image-6.12-cloud-amd64", "linux-image-6.12.94+deb13-cloud-amd64",
		"linux-image-6.12.107+deb12-cloud-amd64", "linux-image-7.2.13+deb14-cloud-amd64", "linux-image-6.1.0-60-amd64",
	}
	for series, want := range map[string]string{
		"6.1": "linux-image-6.1.0-50-cloud-amd64", "6.12": "linux-image-6.12.107+deb12-cloud-amd64",
		"7": "linux-image-7.2.13+deb14-cloud-amd64", "6.12.94": "linux-image-6.12.94+deb13-cloud-amd64", "5": "", "6.10": "",
	} {
		if got := newestKernel(names, series); got != want {
			t.Errorf("series %s: got %q, want %q", series, got, want)
		}
	}
}

func TestReleaseDepends(t *testing.T) {
	const show = "Package: x\nDepends: kmod, dracut | initramfs-tools (>= 0.1), linux-binary-7.2-cloud (= 7.2-1), linux-modules-7.2-cloud (= 7.2-1)\nSize: 1\n"
	want := []string{"linux-binary-7.2-cloud", "linux-modules-7.2-cloud"}
	if got := releaseDepends(show, "7.2-cloud"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
