// `pull LAYOUT` reads an image as Istio's proxies do: the OCI image layout is checked, pushed into
// a registry on loopback, and the module is fetched from there by Istio's own fetcher of Wasm
// images. Prints the digest of the manifest and the sha256 of the module.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"istio.io/istio/pkg/wasm"
)

func main() {
	if err := pull(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}

func pull(folder string) error {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) != 1 {
		return fmt.Errorf("%d images in %s", len(manifest.Manifests), folder)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}

	// Every digest and size, down to the files of the layer; of an artifact the registry holds them.
	described, err := image.Manifest()
	if err != nil {
		return err
	}
	if described.Config.MediaType.IsConfig() {
		if err := validate.Image(image); err != nil {
			return err
		}
	}

	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/meshweft:" +
		manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	if err := remote.Write(tag, image); err != nil {
		return err
	}

	fetcher := wasm.NewImageFetcher(context.Background(), wasm.ImageFetcherOption{Insecure: true})
	fetch, digest, err := fetcher.PrepareFetch(reference)
	if err != nil {
		return err
	}
	module, err := fetch()
	if err != nil {
		return err
	}
	fmt.Printf("%s %x\n", digest, sha256.Sum256(module))
	return nil
}
