// `xds ADDRESS NODE TYPE [NAME…]` asks a control plane, as the proxy that NODE describes in JSON
// would, for the resources of a type, and prints them in JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	// The types that resources are made of.
	_ "github.com/cncf/xds/go/udpa/type/v1"
	_ "github.com/cncf/xds/go/xds/type/v3"
	_ "istio.io/istio/pkg/config/xds"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: xds ADDRESS NODE TYPE [NAME…]")
		os.Exit(2)
	}
	if err := ask(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "xds:", err)
		os.Exit(1)
	}
}

func ask(address, described, kind string, names []string) error {
	node := &core.Node{}
	if err := protojson.Unmarshal([]byte(described), node); err != nil {
		return err
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	patience, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(connection).StreamAggregatedResources(patience)
	if err != nil {
		return err
	}
	request := &discovery.DiscoveryRequest{Node: node, TypeUrl: "type.googleapis.com/" + kind, ResourceNames: names}
	if err := stream.Send(request); err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err != nil {
		return err
	}
	resources := []json.RawMessage{}
	for _, resource := range answer.GetResources() {
		text, err := protojson.Marshal(resource)
		if err != nil {
			return err
		}
		resources = append(resources, text)
	}
	return json.NewEncoder(os.Stdout).Encode(resources)
}
