package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runPods has a containerd start sandboxes with one container each, at once, and end them at once: what is left of a pod without murmur.
// Its marks are named start and end.
func runPods(socket, cgroup string, count int) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	logs, err := os.MkdirTemp("", "bench-cri-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(logs)
	service, out := cri.NewRuntimeServiceClient(conn), json.NewEncoder(os.Stdout)
	sandboxes := make([]runningSandbox, count)
	for _, phase := range []struct {
		name string
		do   func(i int) error
	}{
		{"start", func(i int) (err error) { sandboxes[i], err = startSandbox(ctx, service, logs, cgroup, i); return err }},
		{"end", func(i int) error { return endSandbox(ctx, service, sandboxes[i]) }},
	} {
		marks := make([]mark, count)
		var g errgroup.Group
		for i := range count {
			g.Go(func() error {
				marks[i] = mark{Name: phase.name, Began: time.Now()}
				err := phase.do(i)
				marks[i].Done = time.Now()
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		for _, m := range marks {
			if err := out.Encode(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// runningSandbox is a sandbox and the container in it.
type runningSandbox struct{ id, container string }

func startSandbox(ctx context.Context, service cri.RuntimeServiceClient, logs, cgroup string, i int) (runningSandbox, error) {
	name := "bench-" + strconv.Itoa(i)
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: name}, Hostname: name, LogDirectory: logs,
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: cgroup, SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}},
	}
	s, err := service.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return runningSandbox{}, err
	}
	c, err := service.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: s.PodSandboxId, SandboxConfig: config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "pause"}, Image: &cri.ImageSpec{Image: pauseImage}, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}})
	if err != nil {
		return runningSandbox{}, err
	}
	_, err = service.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId})
	return runningSandbox{s.PodSandboxId, c.ContainerId}, err
}

func endSandbox(ctx context.Context, service cri.RuntimeServiceClient, s runningSandbox) error {
	if _, err := service.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: s.container, Timeout: 30}); err != nil {
		return err
	}
	if _, err := service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.id}); err != nil {
		return err
	}
	_, err := service.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.id})
	return err
}
