// mkimage writes a one-layer docker-archive image FROM scratch:
//
//	mkimage -tag e2e.local/app:1 -o app.tar -entrypoint /app bin/app:/app [link:/bin/sh=/bin/busybox ...]
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var epoch = time.Unix(0, 0)

func add(w *tar.Writer, h *tar.Header, data []byte) {
	h.ModTime, h.Size = epoch, int64(len(data))
	check(w.WriteHeader(h))
	_, err := w.Write(data)
	check(err)
}

func main() {
	tag := flag.String("tag", "", "image name")
	out := flag.String("o", "", "output file")
	entry := flag.String("entrypoint", "", "entrypoint, words split on spaces")
	flag.Parse()

	var layer bytes.Buffer
	lw := tar.NewWriter(&layer)
	dirs := map[string]bool{}
	mkdirs := func(p string) {
		parts := strings.Split(strings.Trim(p, "/"), "/")
		for i := 1; i < len(parts); i++ {
			if d := strings.Join(parts[:i], "/") + "/"; !dirs[d] {
				dirs[d] = true
				add(lw, &tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
			}
		}
	}
	for _, d := range []string{"/tmp/x", "/etc/x"} {
		mkdirs(d)
	}
	for _, a := range flag.Args() {
		if l, ok := strings.CutPrefix(a, "link:"); ok {
			name, to, _ := strings.Cut(l, "=")
			mkdirs(name)
			add(lw, &tar.Header{Name: strings.Trim(name, "/"), Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, nil)
			continue
		}
		src, dst, _ := strings.Cut(a, ":")
		b, err := os.ReadFile(src)
		check(err)
		mkdirs(dst)
		add(lw, &tar.Header{Name: strings.Trim(dst, "/"), Typeflag: tar.TypeReg, Mode: 0o755}, b)
	}
	check(lw.Close())

	id := fmt.Sprintf("%x", sha256.Sum256(layer.Bytes()))
	cfg, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": epoch.UTC().Format(time.RFC3339),
		"config": map[string]any{"Entrypoint": strings.Fields(*entry), "Env": []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + id}},
	})
	check(err)
	cfgName := fmt.Sprintf("%x.json", sha256.Sum256(cfg))
	man, err := json.Marshal([]map[string]any{{"Config": cfgName, "RepoTags": []string{*tag}, "Layers": []string{id + "/layer.tar"}}})
	check(err)

	f, err := os.Create(*out)
	check(err)
	w := tar.NewWriter(f)
	add(w, &tar.Header{Name: cfgName, Typeflag: tar.TypeReg, Mode: 0o644}, cfg)
	add(w, &tar.Header{Name: id + "/layer.tar", Typeflag: tar.TypeReg, Mode: 0o644}, layer.Bytes())
	add(w, &tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg, Mode: 0o644}, man)
	check(w.Close())
	check(f.Close())
}
