// `sds ADDRESS=IDENTITY…` gives each proxy at its address the certificate of its identity, such as
// `spiffe://cluster.local/ns/shop/sa/web` or the name of a host, and the root that all of them
// trust, in place of Istio's agent. The authority is made at the start, and gone with the process.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// The names by which Istio's configuration asks for them.
const (
	certificateName = "default"
	rootName        = "ROOTCA"
	// The authorities that the machine trusts: `caCertificates: system`.
	systemName = "file-root:system"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: sds ADDRESS=IDENTITY…")
		os.Exit(2)
	}
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sds:", err)
		os.Exit(1)
	}
}

func serve(proxies []string) error {
	authority, err := newAuthority()
	if err != nil {
		return err
	}
	ends := make(chan error)
	for _, proxy := range proxies {
		address, identity, _ := strings.Cut(proxy, "=")
		secrets, err := authority.secrets(identity)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		server := grpc.NewServer()
		secret.RegisterSecretDiscoveryServiceServer(server, &service{secrets: secrets})
		go func() { ends <- server.Serve(listener) }()
	}
	return <-ends
}

// What one proxy gets, by name.
type service struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	secrets map[string]*anypb.Any
}

func (s *service) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		// What has a nonce says what became of the answer.
		if request.GetResponseNonce() != "" {
			if detail := request.GetErrorDetail(); detail != nil {
				fmt.Fprintln(os.Stderr, "sds: refused:", detail.GetMessage())
			}
			continue
		}
		answer := &discovery.DiscoveryResponse{VersionInfo: "1", Nonce: "1", TypeUrl: request.GetTypeUrl()}
		for _, name := range request.GetResourceNames() {
			if resource, ok := s.secrets[name]; ok {
				answer.Resources = append(answer.Resources, resource)
			}
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// Who signs all certificates.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Organization: []string{"cluster.local"}},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{key, certificate}, err
}

func (a *authority) secrets(identity string) (map[string]*anypb.Any, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if strings.Contains(identity, "://") {
		uri, err := url.Parse(identity)
		if err != nil {
			return nil, err
		}
		template.URIs = []*url.URL{uri}
	} else {
		template.DNSNames = []string{identity}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	root := &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
		TrustedCa: inline("CERTIFICATE", a.certificate.Raw),
	}}
	secrets := map[string]*anypb.Any{}
	for name, content := range map[string]*tls.Secret{
		certificateName: {Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
			CertificateChain: inline("CERTIFICATE", der),
			PrivateKey:       inline("PRIVATE KEY", private),
		}}},
		rootName:   {Type: root},
		systemName: {Type: root},
	} {
		content.Name = name
		packed, err := anypb.New(content)
		if err != nil {
			return nil, err
		}
		secrets[name] = packed
	}
	return secrets, nil
}

func inline(kind string, der []byte) *core.DataSource {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: text}}
}
