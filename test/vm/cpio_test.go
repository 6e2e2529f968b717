package vm

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeCPIO writes a folder as an archive in the format that the kernel unpacks at boot
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func writeCPIO(file, root string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	a := &archive{w: out}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return a.add(name, path, entry)
	})
	if err != nil {
		return err
	}
	a.entry("TRAILER!!!", 0, nil)
	return a.err
}

// An archive keeps the first error.
type archive struct {
	w     io.Writer
	inode int
	err   error
}

func (a *archive) add(name, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	mode, data := uint32(info.Mode().Perm()), []byte(nil)
	switch {
	case info.IsDir():
		mode |= 0o040000
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		mode, data = mode|0o120000, []byte(target)
	default:
		if data, err = os.ReadFile(path); err != nil {
			return err
		}
		mode |= 0o100000
	}
	a.entry(name, mode, data)
	return a.err
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	a.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.write([]byte(header))
	a.write(make([]byte, (4-len(header)%4)%4))
	a.write(data)
	a.write(make([]byte, (4-len(data)%4)%4))
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
}
