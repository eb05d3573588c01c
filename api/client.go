package api

import (
	"context"
	"net"
	"net/http"

	"connectrpc.com/connect"

	"github.com/reprieve-dev/reprieve/api/reprieve/v1/reprievev1connect"
)

// Client asks the agent that listens on a unix socket. It is safe for
// concurrent use.
type Client struct {
	reprievev1connect.AgentServiceClient
	transport *http.Transport
}

// NewClient makes a client; nothing is opened until it is asked. Without an
// agent every call fails with connect.CodeUnavailable. Options such as
// connect.WithGRPC choose another protocol than Connect's.
func NewClient(socket string, options ...connect.ClientOption) *Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
	}
	options = append([]connect.ClientOption{connect.WithReadMaxBytes(maxResponse)}, options...)
	service := reprievev1connect.NewAgentServiceClient(&http.Client{Transport: transport}, "http://agent", options...)
	return &Client{AgentServiceClient: service, transport: transport}
}

// Close gives idle connections back. It may be called twice.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}
