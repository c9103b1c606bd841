package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := do(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(max(exit.ExitCode(), 1))
		}
		os.Exit(1)
	}
}

func do(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	r := run{}
	flags.StringVar(&r.dir, "cache", ".cache", "where what was built and the results are kept")
	flags.StringVar(&r.bin, "bin", "../../bin", "where the product's programs are")
	flags.StringVar(&r.focus, "focus", "", "run: only specs whose text this regular expression finds")
	flags.StringVar(&r.skip, "skip", "", "run: not those that this one finds")
	flags.IntVar(&r.nodes, "nodes", 3, "run: how many nodes the lab has")
	flags.IntVar(&r.procs, "procs", 4, "run: how many specs at once, of those that may be")
	flags.StringVar(&r.lab, "lab", "conform", "run: the lab's name; one that is up is used, and left up")
	flags.StringVar(&r.out, "out", "", "run: where the results go (default: a folder of the cache, named by the time)")
	docs := flags.String("docs", "../../docs/CONFORMANCE.md", "report: the file to write")
	if len(args) == 0 {
		return errors.New("say what to do: build, images, run, registry or report")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	for _, dir := range []*string{&r.dir, &r.bin} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	switch args[0] {
	case "build":
		return r.build(ctx)
	case "images", "run":
		if err := r.build(ctx); err != nil {
			return err
		}
		file, missing, err := r.images(ctx)
		if err != nil {
			return err
		}
		if args[0] == "run" {
			return r.suite(ctx, file)
		}
		fmt.Println(file)
		for _, name := range missing {
			fmt.Println("not made:", name)
		}
		return nil
	case "registry":
		images, err := openRegistry(r.path("images.tar"))
		if err != nil {
			return err
		}
		return images.serve(ctx)
	case "report":
		return r.report(ctx, *docs)
	}
	return fmt.Errorf("%q: want build, images, run, registry or report", args[0])
}

func sorted[V any](m map[string]V) []string {
	return slices.SortedFunc(maps.Keys(m), cmp.Compare[string])
}
