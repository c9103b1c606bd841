// Package openapi serves the OpenAPI documents of the API, v3 by group version and v2 of all, of the kinds of the table and of
// those that are defined.
//
// Its one law: a daemon that nobody asks to explain anything pays nothing. A document is built when it is first asked for, and what is
// kept is its compressed JSON. Clients keep documents by their hash, which names the program and the routes, or the definitions: what
// a document is a function of. So the index is answered without building any.
//
// Documents of definitions are forgotten when these have changed and somebody asks; one that they still make stays as it is. The v2
// document, megabytes of it, is put together as text from the table's part and that of the definitions (custom.go).
//
// It starts nothing.
package openapi
