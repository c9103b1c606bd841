package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// applyConfig sets the flags that the command line left alone: from the environment first, then from the config file
// and the files of its directory, later files winning.
func applyConfig(flags *pflag.FlagSet, file string, environ []string) error {
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	fromFiles, err := readConfig(flags, file, given["config"])
	if err != nil {
		return err
	}
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "MURMUR_") {
			env[k] = v
		}
	}
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		if given[f.Name] || first != nil {
			return
		}
		name := "MURMUR_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := env[name]; ok {
			if err := flags.Set(f.Name, v); err != nil {
				first = fmt.Errorf("environment %s=%q: %w", name, v, err)
			}
			return
		}
		if s, ok := fromFiles[f.Name]; ok {
			for _, v := range s.values {
				if err := flags.Set(f.Name, v); err != nil {
					first = fmt.Errorf("%s: %s: %w", s.file, f.Name, err)
					return
				}
			}
		}
	})
	return first
}

// setting is a flag's value in a file.
type setting struct {
	file   string
	values []string
}

func readConfig(flags *pflag.FlagSet, file string, required bool) (map[string]setting, error) {
	files := []string{file}
	more, err := filepath.Glob(filepath.Join(file+".d", "*.yaml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(more)
	out := map[string]setting{}
	for i, name := range append(files, more...) {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && (i > 0 || !required) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("config file: %w", err)
		}
		values := map[string]any{}
		if err := yaml.Unmarshal(b, &values); err != nil {
			return nil, fmt.Errorf("config file %s is no YAML mapping of flags to values: %w", name, err)
		}
		for key, v := range values {
			if flags.Lookup(key) == nil || key == "config" {
				return nil, fmt.Errorf("config file %s: there is no setting %q; the settings are the names of the flags of `murmur up`", name, key)
			}
			s := setting{file: name}
			if list, ok := v.([]any); ok {
				for _, e := range list {
					s.values = append(s.values, fmt.Sprint(e))
				}
			} else {
				s.values = []string{fmt.Sprint(v)}
			}
			out[key] = s
		}
	}
	return out, nil
}
