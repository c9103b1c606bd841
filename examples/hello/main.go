// Command hello is the example's program: it answers every HTTP request with the name of the pod and the node that answered.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	host, _ := os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s on %s %s\n", host, os.Getenv("NODE"), os.Getenv("VERSION"))
		log.Printf("%s %s", r.RemoteAddr, r.URL.Path)
	})
	srv := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		// The other nodes need a moment to stop sending requests here; Shutdown then waits for those under way.
		time.Sleep(2 * time.Second)
		_ = srv.Shutdown(context.Background())
	}()
	log.Print("listening on :8080")
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-ctx.Done()
	log.Print("stopped")
}
