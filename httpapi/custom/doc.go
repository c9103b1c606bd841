// Package custom serves the kinds that CustomResourceDefinitions define.
//
// Its one law: what is served is a function of the newest snapshot. A request looks its definition up, so a kind is there
// with the commit that brings its definition, on every node that has it, and no controller has to have run first.
//
// # How a request goes
//
// Kinds.Serve gets what the table of built-in kinds does not answer. It looks the definition up and takes what serving
// needs: upstream's schemas, converters, strategies and request scopes. Those are made with a kind's first request
// (kinds.go, serve.go) and kept until the definition says something else; then the kind's watches end, so that clients
// learn of it. Objects have no Go types: codec.go decodes, prunes, defaults and converts them as upstream's extension
// server does, and has them stored in the definition's storage version.
//
// # Merging
//
// Two sides of a cut network may write to one object. With each object goes how it is merged, its shape, which follows
// from the schema (shape.go); the store reads it and clients never see it.
//
// # Names
//
// A definition's accepted names and conditions are settled with the write that brings it (DefinitionForm), out of what
// all definitions say, by a rule that gives the same on every node (definition.go).
//
// # The loop
//
// Run does what is left when a definition changes elsewhere: it settles names that became free or collided while the
// network was cut, deletes the objects of a definition that goes, and removes what a side that did not know of that has
// made since. Any node may do that, in its turn (httpapi/turn).
//
// # What it does not do
//
// It authorises nothing, and admission is given to it. Discovery and OpenAPI of defined kinds are made by who serves
// those of all.
package custom
