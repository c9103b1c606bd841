package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// The annotations by which containerd says what a container is, and by which its Owner is known again.
const (
	annotationPodUID    = "io.kubernetes.cri.sandbox-uid"
	annotationContainer = "io.kubernetes.cri.container-name"
)

// fields is a JSON object of which only some fields are of interest: the others stay as they are.
type fields map[string]json.RawMessage

func parse(text []byte) (fields, error) {
	var f fields
	err := json.Unmarshal(text, &f)
	return f, err
}

// into reads a field; one that is not there leaves v as it is.
func (f fields) into(name string, v any) error {
	text, ok := f[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (f fields) set(name string, v any) error {
	text, err := json.Marshal(v)
	f[name] = text
	return err
}

// maySeal tells, without reading it, whether a document may have a sealed text.
func maySeal(text []byte) bool { return bytes.Contains(text, []byte(Prefix)) }

// Config opens what is sealed in a container's configuration, as the OCI runtime specification has it. It returns nil if nothing is:
// then the key is not asked for. The root filesystem is named absolutely in what it returns, by the bundle that it was in.
func Config(text []byte, bundle string, key func() (*Key, error)) ([]byte, error) {
	if !maySeal(text) {
		return nil, nil
	}
	config, err := parse(text)
	if err != nil {
		return nil, err
	}
	var process fields
	var annotations map[string]string
	if err := errors.Join(config.into("process", &process), config.into("annotations", &annotations)); err != nil {
		return nil, err
	}
	changed, err := open(process, true, key, func() (string, error) {
		return Owner(annotations[annotationPodUID], annotations[annotationContainer]), nil
	})
	if err != nil || !changed {
		return nil, err
	}
	var root fields
	var path string
	if err := config.into("root", &root); err != nil {
		return nil, err
	}
	if err := root.into("path", &path); err != nil {
		return nil, err
	}
	if path != "" && !filepath.IsAbs(path) {
		if err := errors.Join(root.set("path", filepath.Join(bundle, path)), config.set("root", root)); err != nil {
			return nil, err
		}
	}
	if err := config.set("process", process); err != nil {
		return nil, err
	}
	return json.Marshal(config)
}

// Process opens what is sealed in the environment of a process that is to be run in a container. Its arguments are whoever's who asked for
// it, and are never sealed. It returns nil if there is nothing to open. state is runc's state of the container, which says whose it is.
func Process(text []byte, state func() ([]byte, error), key func() (*Key, error)) ([]byte, error) {
	if !maySeal(text) {
		return nil, nil
	}
	process, err := parse(text)
	if err != nil {
		return nil, err
	}
	changed, err := open(process, false, key, func() (string, error) {
		text, err := state()
		if err != nil {
			return "", err
		}
		return ownerOf(text)
	})
	if err != nil || !changed {
		return nil, err
	}
	return json.Marshal(process)
}

// ownerOf reads whose a container is from runc's state, which has its annotations as labels.
func ownerOf(state []byte) (string, error) {
	var s struct {
		Config struct {
			Labels []string `json:"labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(state, &s); err != nil {
		return "", fmt.Errorf("runc's state: %w", err)
	}
	labels := map[string]string{}
	for _, l := range s.Config.Labels {
		name, value, _ := strings.Cut(l, "=")
		labels[name] = value
	}
	return Owner(labels[annotationPodUID], labels[annotationContainer]), nil
}

// open opens the texts of a process that are sealed.
func open(process fields, arguments bool, key func() (*Key, error), owner func() (string, error)) (changed bool, err error) {
	var env, args []string
	if err := process.into("env", &env); err != nil {
		return false, err
	}
	if err := process.into("args", &args); err != nil {
		return false, err
	}
	var k *Key
	var whose string
	unseal := func(text, what string) (string, error) {
		if k == nil {
			if k, err = key(); err != nil {
				return "", err
			}
			if whose, err = owner(); err != nil {
				return "", err
			}
		}
		out, err := k.Open(text, whose)
		if err != nil {
			return "", fmt.Errorf("%s: %w", what, err)
		}
		if strings.IndexByte(out, 0) >= 0 {
			return "", fmt.Errorf("%s: the Secret has a zero byte, which no variable and no argument can have", what)
		}
		return out, nil
	}
	for i, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if !Is(value) {
			continue
		}
		if value, err = unseal(value, fmt.Sprintf("variable %s", name)); err != nil {
			return false, err
		}
		env[i], changed = name+"="+value, true
	}
	if changed {
		if err := process.set("env", env); err != nil {
			return false, err
		}
	}
	if !arguments {
		return changed, nil
	}
	opened := false
	for i, a := range args {
		if !Is(a) {
			continue
		}
		if i == 0 {
			// What cannot be run is named in messages that end up in files: runc's, containerd's and the pod's status.
			return false, errors.New("the program that is to run is named by a Secret, or by what looks like a sealed one: name it in the command")
		}
		if args[i], err = unseal(a, fmt.Sprintf("argument %d", i)); err != nil {
			return false, err
		}
		opened = true
	}
	if opened {
		if err := process.set("args", args); err != nil {
			return false, err
		}
	}
	return changed || opened, nil
}
