package docs_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/reprieve-dev/reprieve/api"
	"github.com/reprieve-dev/reprieve/incident"
	"github.com/reprieve-dev/reprieve/incident/journal"
)

// quiet is an agent to which nothing has happened yet. Other methods than those
// that a scrape calls are left out.
type quiet struct{ api.Agent }

func (quiet) Statuses(context.Context) ([]incident.Status, error) { return nil, nil }

func (quiet) Incidents(context.Context, journal.Filter) ([]journal.Incident, error) { return nil, nil }

func (quiet) Health(context.Context) (incident.Health, error) {
	return incident.Health{
		Runtimes: map[string]string{"runc": "ok"}, Since: time.Now(),
		Counters: map[string]uint64{"sent-exit": 1, "lost-exit": 1, "held": 1},
	}, nil
}

// TestEveryMetricIsDocumented, with type and labels, and no other is.
func TestEveryMetricIsDocumented(t *testing.T) {
	documented := map[string]row{}
	for _, r := range rows(pages(t)["operations.md"], 4) {
		if name := strings.Trim(r[0], "`"); strings.HasPrefix(name, "reprieve_") {
			documented[name] = r
		}
	}
	answer := httptest.NewRecorder()
	api.New(quiet{}, api.Options{}).Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	kinds := map[string]string{}
	for line := range strings.Lines(answer.Body.String()) {
		words := strings.Fields(line)
		if len(words) == 4 && words[1] == "TYPE" {
			kinds[words[2]] = words[3]
		}
		name, labels, ok := strings.Cut(words[0], "{")
		if !ok || words[0] == "#" {
			continue
		}
		for label := range strings.SplitSeq(strings.TrimSuffix(labels, "}"), ",") {
			key, _, _ := strings.Cut(label, "=")
			if r := documented[name]; r != nil && !strings.Contains(r[2], "`"+key+"`") {
				t.Errorf("operations.md lacks the label %s of %s", key, name)
			}
		}
	}
	for name, kind := range kinds {
		if r := documented[name]; r == nil || r[1] != kind {
			t.Errorf("operations.md has %s as %v, it is a %s", name, r, kind)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("operations.md has %s, which is no metric", name)
	}
}
