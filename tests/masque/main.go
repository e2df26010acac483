// Command masque is a MASQUE client written on quic-go, which knows nothing of this product but the RFCs: it opens CONNECT-UDP
// (RFC 9298) through a relay, and inside it an HTTP/3 connection with CONNECT (RFC 9114 section 4.4) or CONNECT-UDP to a service.
//
// It prints one JSON object: the stage that was reached, the status it answered or the error it ended with.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

type result struct {
	Stage       string `json:"stage"`
	Status      int    `json:"status,omitempty"`
	ProxyStatus string `json:"proxyStatus,omitempty"`
	Body        string `json:"body,omitempty"`
	Error       string `json:"error,omitempty"`
}

type headers []string

func (h *headers) String() string     { return strings.Join(*h, ", ") }
func (h *headers) Set(s string) error { *h = append(*h, s); return nil }

var (
	relay     = flag.String("relay", "", "ip:port of the relay")
	relayName = flag.String("relay-name", "", "DNS name in the relay's certificate")
	ca        = flag.String("ca", "", "trusted CA certificates, PEM")
	cert      = flag.String("cert", "", "client certificate chain, PEM; none is sent without it")
	key       = flag.String("key", "", "its key, PEM")
	innerCert = flag.String("inner-cert", "", "client certificate chain of the inner connection; default -cert")
	innerKey  = flag.String("inner-key", "", "its key; default -key")
	alpn      = flag.String("alpn", "h3", "ALPN of the outer connection")
	path      = flag.String("path", "", "path of the outer request; default CONNECT-UDP to -connector")
	connector = flag.String("connector", "", "DNS name in the connector's certificate")
	target    = flag.String("target", "", "service.zone:port; only the outer request is made without it")
	udp       = flag.String("udp", "", "send this datagram to the target, and print the answer, instead of an HTTP request over TCP")
	get       = flag.String("get", "/", "path of the HTTP/1.1 request sent to a TCP target")
	capsule   = flag.String("capsule", "", "hex: written to the outer request's stream once it is answered")
	raw       = flag.String("datagram", "", "hex: sent as an HTTP Datagram of the outer request once it is answered")
	timeout   = flag.Duration("timeout", 10*time.Second, "limit of the whole run")
	extra     headers
)

func main() {
	flag.Var(&extra, "header", "outer request header, 'name: value'; repeatable")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	out := result{Stage: "outer"}
	if err := run(ctx, &out); err != nil {
		out.Error = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
	if out.Error != "" || out.Status != 200 {
		os.Exit(1)
	}
}

func run(ctx context.Context, out *result) error {
	outerTLS, err := config(*cert, *key, *relayName, *alpn)
	if err != nil {
		return err
	}
	addr, err := net.ResolveUDPAddr("udp", *relay)
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	// 1400 leaves room for an inner packet of 1280 and the framing of a DATAGRAM.
	conn, err := quic.Dial(ctx, socket, addr, outerTLS, &quic.Config{EnableDatagrams: true, InitialPacketSize: 1400})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseWithError(0x100, "") }()
	transport := &http3.Transport{EnableDatagrams: true}
	client := transport.NewClientConn(conn)

	where := *path
	if where == "" {
		where = "/.well-known/masque/udp/" + *connector + "/443/"
	}
	stream, response, err := connect(ctx, client, "connect-udp", *relay, where, extra)
	if err != nil {
		return err
	}
	out.Status, out.ProxyStatus = response.StatusCode, response.Header.Get("Proxy-Status")
	if response.StatusCode != 200 {
		return nil
	}
	if err := send(stream); err != nil {
		return err
	}
	if *target == "" {
		return nil
	}
	return inner(ctx, stream, out)
}

// send puts the bytes of -capsule and -datagram on the wire as they are.
func send(stream *http3.RequestStream) error {
	bytes, err := hex.DecodeString(*capsule)
	if err != nil {
		return err
	}
	if _, err := stream.Write(bytes); err != nil {
		return err
	}
	datagram, err := hex.DecodeString(*raw)
	if err != nil || *raw == "" {
		return err
	}
	return stream.SendDatagram(datagram)
}

func inner(ctx context.Context, tunnel *http3.RequestStream, out *result) error {
	*out = result{Stage: "inner"}
	if *innerCert == "" {
		*innerCert, *innerKey = *cert, *key
	}
	innerTLS, err := config(*innerCert, *innerKey, *connector, "h3")
	if err != nil {
		return err
	}
	packets := &packetConn{stream: tunnel, ctx: ctx}
	conn, err := quic.Dial(ctx, packets, tunnelAddr{}, innerTLS,
		&quic.Config{EnableDatagrams: true, InitialPacketSize: 1200, DisablePathMTUDiscovery: true})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseWithError(0x100, "") }()
	client := (&http3.Transport{EnableDatagrams: true}).NewClientConn(conn)
	host, port, err := net.SplitHostPort(*target)
	if err != nil {
		return err
	}
	protocol, where := "", ""
	if *udp != "" {
		protocol, where = "connect-udp", "/.well-known/masque/udp/"+host+"/"+port+"/"
	}
	stream, response, err := connect(ctx, client, protocol, *target, where, nil)
	if err != nil {
		return err
	}
	out.Stage, out.Status, out.ProxyStatus = "flow", response.StatusCode, response.Header.Get("Proxy-Status")
	if response.StatusCode != 200 {
		return nil
	}
	if *udp != "" {
		return datagram(ctx, stream, out)
	}
	if _, err := io.WriteString(stream, "GET "+*get+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(stream), nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(answer.Body)
	out.Body = string(body)
	return err
}

func datagram(ctx context.Context, stream *http3.RequestStream, out *result) error {
	for ctx.Err() == nil {
		if err := stream.SendDatagram(append([]byte{0}, *udp...)); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, time.Second)
		answer, err := stream.ReceiveDatagram(wait)
		cancel()
		if err == nil && len(answer) > 0 && answer[0] == 0 {
			out.Body = string(answer[1:])
			return nil
		}
	}
	return errors.New("no datagram came back")
}

// connect sends CONNECT, extended when protocol is given, and reads the answer.
func connect(ctx context.Context, client *http3.ClientConn, protocol, authority, path string, fields []string) (*http3.RequestStream, *http.Response, error) {
	if protocol != "" {
		select {
		case <-client.ReceivedSettings():
		case <-client.Context().Done():
			return nil, nil, context.Cause(client.Context())
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		if !client.Settings().EnableExtendedConnect || !client.Settings().EnableDatagrams {
			return nil, nil, errors.New("the peer offers no extended CONNECT or no datagrams")
		}
	}
	stream, err := client.OpenRequestStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	request := (&http.Request{Method: http.MethodConnect, Host: authority, Header: http.Header{}, URL: &url.URL{Host: authority}}).WithContext(ctx)
	if protocol != "" {
		request.Proto = protocol
		request.URL = &url.URL{Scheme: "https", Host: authority, Path: path}
		request.Header.Set("Capsule-Protocol", "?1")
		if decoded, err := url.PathUnescape(path); err == nil {
			request.URL.Path, request.URL.RawPath = decoded, path
		}
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		request.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if err := stream.SendRequestHeader(request); err != nil {
		return nil, nil, err
	}
	response, err := stream.ReadResponse()
	return stream, response, err
}

func config(cert, key, name, alpn string) (*tls.Config, error) {
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no CA certificate in " + *ca)
	}
	config := &tls.Config{RootCAs: pool, ServerName: name, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		// Always this one, whatever the server says it would accept.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return config, nil
}

// packetConn is the tunnel as a socket: HTTP Datagrams with context ID 0 (RFC 9298 section 5).
type packetConn struct {
	stream *http3.RequestStream
	ctx    context.Context
}

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "masque" }
func (tunnelAddr) String() string  { return "tunnel" }

func (c *packetConn) ReadFrom(into []byte) (int, net.Addr, error) {
	for {
		datagram, err := c.stream.ReceiveDatagram(c.ctx)
		if err != nil {
			return 0, nil, err
		}
		if payload, ok := bytes.CutPrefix(datagram, []byte{0}); ok {
			return copy(into, payload), tunnelAddr{}, nil
		}
	}
}

func (c *packetConn) WriteTo(packet []byte, _ net.Addr) (int, error) {
	return len(packet), c.stream.SendDatagram(append([]byte{0}, packet...))
}

func (c *packetConn) Close() error                     { return nil }
func (c *packetConn) LocalAddr() net.Addr              { return tunnelAddr{} }
func (c *packetConn) SetDeadline(time.Time) error      { return nil }
func (c *packetConn) SetReadDeadline(time.Time) error  { return nil }
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }
