// Package containerd is the driver under node/pod: it runs pods through containerd.
//
// # What it is
//
// A Driver does two things. It supervises a containerd of its own: writes its configuration, starts it, starts it again
// when it dies (daemon.go). And it translates: node/pod's Runtime in terms of CRI (driver.go, sandbox.go, container.go,
// image.go), with pod cgroups (cgroup.go) and the pause image (pause.go) that CRI expects from its caller.
//
// What containers take from Secrets as variables or arguments is sealed before containerd hears of it, and opened by what containerd
// starts in place of runc (sealing.go, package seal).
//
// # Its one law
//
// containers outlive the daemon. containerd is started in a session of its own and is left running when Run returns, however
// Run returns; the next daemon finds it by its pid file and socket and adopts it. Only Shutdown ends it.
//
// # What it does not do
//
// It decides nothing: which container runs, when it is restarted, which image is pulled with which credentials is node/pod's.
// It keeps no state but caches of what containerd said about things that no longer change.
//
// # How to look inside
//
// Config.Root/containerd.log is containerd's own log; Config.Root/config.toml its configuration;
// `ctr --address SOCKET -n k8s.io` works against it. Texts that begin with `murmur-sealed:` there are as the container's process does
// not see them.
package containerd
