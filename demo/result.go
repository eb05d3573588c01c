package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// result is the figures of one scenario, counted from the fault.
type result struct {
	Part       string  `json:"part"`
	Runtime    string  `json:"runtime"`
	Scenario   string  `json:"scenario"`
	DetectedUS int64   `json:"detected_us"`
	FencedUS   int64   `json:"fenced_us"`
	ServiceMS  float64 `json:"service_ms"`
	EvidenceMB float64 `json:"evidence_mb"`
}

func (r result) fenced() string { return thousands(r.FencedUS) }

func writeResults(file string, all []result) error {
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

func readResults(file string) (all []result, err error) {
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return all, nil
}
