// The Kubernetes API for tests, and its client: `kube serve ADDRESS FOLDER` serves it over TLS on
// port 6443 of an address on loopback, with its database and a kubeconfig in the folder; all other
// arguments are kubectl's. There are no nodes and no controllers: what is applied is validated,
// stored and watched, as in any cluster, and nothing is run.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- {name: test, cluster: {server: "https://%s:6443", insecure-skip-tls-verify: true}}
users:
- {name: test, user: {token: test}}
contexts:
- {name: test, context: {cluster: test, user: test}}
current-context: test
`

func main() {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		if err := serve(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "kube:", err)
			os.Exit(1)
		}
		return
	}
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}

func serve(address, folder string) error {
	database, err := etcd(address, filepath.Join(folder, "etcd"))
	if err != nil {
		return err
	}
	defer database.Close()

	key := filepath.Join(folder, "accounts.key")
	if err := accountsKey(key); err != nil {
		return err
	}
	tokens := filepath.Join(folder, "tokens.csv")
	if err := os.WriteFile(tokens, []byte("test,test,test,system:masters\n"), 0o600); err != nil {
		return err
	}
	config := filepath.Join(folder, "kubeconfig")
	if err := os.WriteFile(config, fmt.Appendf(nil, kubeconfig, address), 0o600); err != nil {
		return err
	}

	server := app.NewAPIServerCommand()
	server.SetArgs([]string{
		"--etcd-servers", database.Config().ListenClientUrls[0].String(),
		"--bind-address", address,
		"--advertise-address", address,
		// An endpoint of the API itself would have to be outside loopback.
		"--endpoint-reconciler-type", "none",
		"--cert-dir", filepath.Join(folder, "certificates"),
		"--token-auth-file", tokens,
		"--authorization-mode", "AlwaysAllow",
		"--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.test",
		"--service-account-key-file", key,
		"--service-account-signing-key-file", key,
		// There is no controller that makes the accounts.
		"--disable-admission-plugins", "ServiceAccount",
	})
	return server.Execute()
}

// etcd starts the database, and waits until it answers.
func etcd(address, folder string) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir = folder
	config.LogLevel = "error"
	// Nothing of it is to outlive the test.
	config.UnsafeNoFsync = true
	clients := []url.URL{{Scheme: "http", Host: address + ":2379"}}
	peers := []url.URL{{Scheme: "http", Host: address + ":2380"}}
	config.ListenClientUrls, config.AdvertiseClientUrls = clients, clients
	config.ListenPeerUrls, config.AdvertisePeerUrls = peers, peers
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, nil
	case err := <-server.Err():
		return nil, err
	}
}

// accountsKey writes the key that tokens of accounts are signed with.
func accountsKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	pem, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return keyutil.WriteKey(path, pem)
}
