// Package compose tests the Dockerfile and docker-compose.yml as they are: built,
// started, broken and stopped with docker-compose, on the host's own network
// namespace, with base images that stand in for the public ones.
package compose
