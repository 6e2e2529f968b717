// Package documents holds what describes the product to others, manifests and the
// AsyncAPI document, to the libraries of those who read them. It is a module of its
// own, so that those libraries are in nobody's module graph who imports the product.
package documents
