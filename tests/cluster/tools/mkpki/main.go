// mkpki writes a throw-away cluster PKI and kubeconfigs into a folder.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var dir string

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(name, typ string, der []byte) []byte {
	b := pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	check(os.WriteFile(filepath.Join(dir, name), b, 0o600))
	return b
}

func newKey(name string) (*ecdsa.PrivateKey, []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	der, err := x509.MarshalECPrivateKey(k)
	check(err)
	return k, write(name, "EC PRIVATE KEY", der)
}

func sign(name string, t *x509.Certificate, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) []byte {
	t.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	t.NotBefore = time.Now().Add(-time.Hour)
	t.NotAfter = time.Now().Add(365 * 24 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	check(err)
	return write(name, "CERTIFICATE", der)
}

func main() {
	flag.StringVar(&dir, "dir", "pki", "output folder")
	server := flag.String("server", "", "API server URL for the kubeconfigs")
	node := flag.String("node", "", "node name")
	sans := flag.String("ips", "", "comma-separated IP SANs of the serving certificates")
	flag.Parse()
	check(os.MkdirAll(dir, 0o700))

	caKey, _ := newKey("ca.key")
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "e2e-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	caPEM := sign("ca.crt", ca, ca, caKey.Public(), caKey)

	saKey, _ := newKey("sa.key")
	der, err := x509.MarshalPKIXPublicKey(saKey.Public())
	check(err)
	write("sa.pub", "PUBLIC KEY", der)

	var ips []net.IP
	for _, s := range strings.Split(*sans, ",") {
		ips = append(ips, net.ParseIP(s))
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leaf := func(file, cn, org string) (crt, key []byte) {
		k, keyPEM := newKey(file + ".key")
		t := &x509.Certificate{Subject: pkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: both, IPAddresses: ips, DNSNames: []string{"localhost", *node, "kubernetes",
				"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}}
		if org != "" {
			t.Subject.Organization = []string{org}
		}
		return sign(file+".crt", t, ca, k.Public(), caKey), keyPEM
	}
	leaf("apiserver", "kube-apiserver", "")
	leaf("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
	leaf("kubelet-server", "system:node:"+*node, "system:nodes")

	b64 := base64.StdEncoding.EncodeToString
	for _, u := range []struct{ file, cn, org string }{
		{"admin", "e2e-admin", "system:masters"},
		{"kubelet", "system:node:" + *node, "system:nodes"},
		{"kube-controller-manager", "system:kube-controller-manager", ""},
		{"kube-scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	} {
		crt, key := leaf(u.file, u.cn, u.org)
		kc := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "%s", certificate-authority-data: %s}}]
users: [{name: u, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: e2e, context: {cluster: e2e, user: u}}]
current-context: e2e
`, *server, b64(caPEM), b64(crt), b64(key))
		check(os.WriteFile(filepath.Join(dir, u.file+".kubeconfig"), []byte(kc), 0o600))
	}
}
