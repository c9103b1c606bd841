// Package informers gives upstream's code that runs in this process its informers: admission plugins, policies, and
// priority and fairness.
//
// Its one law: the store is the cache. Upstream's informers keep a copy of what they have listed and watched; here the
// index of each is the newest snapshot, which nobody has to keep in step, and it has always synced.
//
// # Rows
//
// A Factory has an informer for each kind that some plugin asks for, and for no other: asking for another panics when
// the server is made, and does not answer wrongly later. One more is one more case of InformerFor.
//
// # Being told of changes
//
// A plugin that keeps something of its own adds an event handler. Followers are those handlers; their Run compares what
// each has seen with what is there whenever one of their resources has changed, and tells it the difference. So a
// handler may miss states between, and never an object.
//
// # What it does not do
//
// It fetches nothing, resyncs nothing, and starts nothing: who owns Followers runs them.
package informers
