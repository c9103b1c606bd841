// Package control is the controllers.
package control
