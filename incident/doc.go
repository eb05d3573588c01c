// Package incident joins the rooms below it by policy: a fault that detect
// found is judged, and where the verdict is a reprieve, isolate keeps the body
// and recovery brings the service back, step by step, each step journalled
// before and after, so that a restarted agent resumes it. api and cmd call it.
package incident
