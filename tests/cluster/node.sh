#!/bin/bash
# The node of the test cluster, run inside its namespaces: node.sh boot, or start|stop|signal COMPONENT.
# Everything it mounts, adds and sets is gone with the namespaces. See README.md for the addresses.
#
# E2E is the folder with bin/, images/ and node folders as seen from outside, E2E_NODE this node's among them;
# inside they are /run/e2e/{bin,images,node}, whichever node it is.
set -euo pipefail

NODE=e2e
NODE4=10.99.0.1 NODE6=fd00:10:99::1
CLIENT4=10.99.0.2 CLIENT6=fd00:10:99::2
PODS4=10.244.0.0/24 PODS6=fd00:10:244::/64
SERVICES4=10.96.0.0/16 SERVICES6=fd00:10:96::/112
API4=10.96.0.1
ROOT=/run/e2e D=/run/e2e/node P=/run/e2e/node/pki
export PATH=$ROOT/bin:$PATH HOME=$ROOT/node/home KUBECONFIG=$P/admin.kubeconfig

say() { printf '%s %s\n' "$(date +%T.%3N)" "${E2E_NODE:+$E2E_NODE }$*"; }

wait_for() { # seconds description command...
  local until=$((SECONDS + $1)) what=$2
  shift 2
  while ! "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || { echo "$what: not ready" >&2; return 1; }
    sleep 0.1
  done
  say "$what: ready"
}

# --- what only exists here

mounts() {
  # The folders may be below one that is covered next.
  mount -t tmpfs -o mode=755 tmpfs /mnt
  mkdir /mnt/{bin,images,node}
  mount --bind "$E2E/bin" /mnt/bin
  mount --bind "$E2E/images" /mnt/images
  mount --bind "$E2E/$E2E_NODE" /mnt/node
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p $ROOT /run/lock /run/netns /run/user
  mount --move /mnt $ROOT
  mkdir -p $D/{home,kubelet,containerd,cni,podlogs,etcd,cgroups,sysctl,log}
  mount -t proc proc /proc
  # The kubelet and the runtime have paths of their own under these: on a file system of ours.
  for covered in /var/lib /var/log /tmp; do mount -t tmpfs -o mode=755 tmpfs $covered; done
  chmod 1777 /tmp
  mkdir -p /var/lib/{kubelet,containerd} /var/log/pods
  mount --bind $D/kubelet /var/lib/kubelet
  mount --bind $D/containerd /var/lib/containerd
  mount --bind $D/podlogs /var/log/pods
  # A sysfs of this network namespace, with the machine's cgroups and a bpffs of our own in it.
  mount --rbind /sys/fs/cgroup $D/cgroups
  mount -t sysfs sysfs /sys
  mount --rbind $D/cgroups /sys/fs/cgroup
  umount -l $D/cgroups
  mount -t bpf bpf /sys/fs/bpf
  # The kubelet writes sysctls that no namespace holds: it finds the values it wants in files.
  local setting file
  # And one that it reads: a scenario makes the node look short of process ids by it.
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000 \
    "kernel/pid_max=$(cat /proc/sys/kernel/pid_max)"; do
    file=$D/sysctl/$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
  # Not before everything is in place: hostPath mounts follow /run/netns from here on.
  mount --make-rshared /
  hostname $NODE
}

network() {
  ip link set lo up
  ip netns add client
  ip link add node0 type veth peer name eth0 netns client
  ip addr add $NODE4/24 dev node0
  ip addr add $NODE6/64 dev node0 nodad
  ip link set node0 up
  ip -n client link set lo up
  ip -n client addr add $CLIENT4/24 dev eth0
  ip -n client addr add $CLIENT6/64 dev eth0 nodad
  ip -n client link set eth0 up
  ip -n client route add default via $NODE4
  ip -n client route add default via $NODE6
  # The kubelet wants a default route; nothing answers there.
  ip route add default via $CLIENT4
  ip route add default via $CLIENT6
  local setting
  for setting in ipv4.ip_forward ipv6.conf.all.forwarding bridge.bridge-nf-call-iptables \
    bridge.bridge-nf-call-ip6tables; do
    echo 1 >"/proc/sys/net/${setting//.//}" || say "no net.$setting here"
  done
  # Thousands of connections a test, each from a port of its own.
  ip netns exec client bash -c 'echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range'
}

# One folder of ours in each hierarchy, for the pods; in cgroup2 also one for the kubelet, as systemd
# would give it one: the agent knows the kubelet by its cgroup.
cgroups() {
  local folder
  # The one folder that this node has in the machine's cgroups.
  CGROUP=$(cat $D/cgroup)
  CGROUP2=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
  for folder in $(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts); do mkdir -p "$folder/$CGROUP"; done
  mkdir -p "$CGROUP2/$CGROUP/kubelet"
}

files() { # after cgroups
  mkpki -dir $P -server "https://$NODE4:6443" -node $NODE -ips "127.0.0.1,::1,$NODE4,$NODE6,$API4"
  : >$D/resolv.conf
  local restrict=false
  # Where even root may not lower a process's oom_score_adj, as on some virtual machines.
  ( echo -998 >/proc/self/oom_score_adj ) 2>/dev/null || restrict=true
  cat >$D/containerd.toml <<-TOML
	version = 2
	root = "/var/lib/containerd"
	state = "/run/containerd"
	[grpc]
	  address = "/run/containerd/containerd.sock"
	[plugins."io.containerd.internal.v1.opt"]
	  path = "/run/containerd/opt"
	[plugins."io.containerd.grpc.v1.cri"]
	  sandbox_image = "e2e.local/pause:1"
	  disable_apparmor = true
	  restrict_oom_score_adj = $restrict
	  [plugins."io.containerd.grpc.v1.cri".cni]
	    bin_dir = "$ROOT/bin/cni"
	    conf_dir = "$D/cni"
	  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
	    runtime_type = "io.containerd.runc.v2"
	    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
	      SystemdCgroup = false
	TOML
  cat >$D/cni/10-e2e.conflist <<-JSON
	{"cniVersion": "1.0.0", "name": "e2e", "plugins": [
	  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
	   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS4"}], [{"subnet": "$PODS6"}]],
	            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
	  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	JSON
  cat >$D/kubelet.yaml <<-YAML
	apiVersion: kubelet.config.k8s.io/v1beta1
	kind: KubeletConfiguration
	authentication:
	  anonymous: {enabled: false}
	  webhook: {enabled: true}
	  x509: {clientCAFile: $P/ca.crt}
	authorization: {mode: Webhook}
	tlsCertFile: $P/kubelet-server.crt
	tlsPrivateKeyFile: $P/kubelet-server.key
	containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
	cgroupDriver: cgroupfs
	cgroupRoot: /$CGROUP
	failCgroupV1: false
	failSwapOn: false
	resolvConf: $D/resolv.conf
	clusterDomain: cluster.local
	healthzBindAddress: 127.0.0.1
	staticPodPath: $D/static-pods
	imageGCHighThresholdPercent: 100
	evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
	evictionSoft: {pid.available: 1k}
	evictionSoftGracePeriod: {pid.available: 1s}
	evictionMaxPodGracePeriod: 60
	evictionPressureTransitionPeriod: 5s
	volumePluginDir: /var/lib/kubelet/volume-plugins
	YAML
  mkdir -p $D/static-pods
}

# --- the components

launch() { # name command...
  local name=$1
  shift
  setsid "$@" </dev/null >>"$D/log/$name.log" 2>&1 &
  echo $! >"$D/$name.pid"
}

start() {
  case $1 in
  etcd)
    launch etcd etcd --name e2e --data-dir $D/etcd --unsafe-no-fsync --log-level warn \
      --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
      --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
      --initial-cluster e2e=http://127.0.0.1:2380
    ;;
  containerd) launch containerd containerd --config $D/containerd.toml ;;
  kube-apiserver)
    launch kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
      --advertise-address $NODE4 --bind-address :: --secure-port 6443 \
      --service-cluster-ip-range $SERVICES4,$SERVICES6 --authorization-mode Node,RBAC \
      --client-ca-file $P/ca.crt --tls-cert-file $P/apiserver.crt --tls-private-key-file $P/apiserver.key \
      --kubelet-certificate-authority $P/ca.crt --kubelet-preferred-address-types InternalIP \
      --kubelet-client-certificate $P/apiserver-kubelet-client.crt \
      --kubelet-client-key $P/apiserver-kubelet-client.key \
      --service-account-issuer https://kubernetes.default.svc --service-account-key-file $P/sa.pub \
      --service-account-signing-key-file $P/sa.key --allow-privileged \
      --enable-admission-plugins NodeRestriction \
      --feature-gates MutatingAdmissionPolicy=true \
      --runtime-config admissionregistration.k8s.io/v1beta1=true
    ;;
  kube-controller-manager)
    launch kube-controller-manager kube-controller-manager --kubeconfig $P/kube-controller-manager.kubeconfig \
      --leader-elect=false --use-service-account-credentials --bind-address 127.0.0.1 \
      --service-account-private-key-file $P/sa.key --root-ca-file $P/ca.crt \
      --cluster-signing-cert-file $P/ca.crt --cluster-signing-key-file $P/ca.key \
      --cluster-cidr $PODS4,$PODS6 --service-cluster-ip-range $SERVICES4,$SERVICES6 \
      --flex-volume-plugin-dir /var/lib/kubelet/volume-plugins
    ;;
  kube-scheduler)
    launch kube-scheduler kube-scheduler --kubeconfig $P/kube-scheduler.kubeconfig --leader-elect=false \
      --bind-address 127.0.0.1
    ;;
  kubelet)
    cgroups
    # In a shell of its own, so that the kubelet begins its life in its cgroup.
    launch kubelet bash -c 'echo $$ >"$0" && exec "$@"' "$CGROUP2/$CGROUP/kubelet/cgroup.procs" \
      kubelet --config $D/kubelet.yaml --kubeconfig $P/kubelet.kubeconfig --hostname-override $NODE \
      --node-ip $NODE4,$NODE6 --v 3
    ;;
  kube-proxy)
    cat >$D/kube-proxy.yaml <<-YAML
	apiVersion: kubeproxy.config.k8s.io/v1alpha1
	kind: KubeProxyConfiguration
	clientConnection: {kubeconfig: $P/kube-proxy.kubeconfig}
	mode: $(cat $D/proxy-mode)
	clusterCIDR: $PODS4,$PODS6
	hostnameOverride: $NODE
	bindAddress: $NODE4
	conntrack: {maxPerCore: 0}
	YAML
    launch kube-proxy kube-proxy --config $D/kube-proxy.yaml --v 2
    ;;
  *) echo "no component $1" >&2; exit 64 ;;
  esac
}

stop() { # component [signal]
  local pid
  pid=$(cat "$D/$1.pid")
  kill "-${2:-TERM}" "$pid" 2>/dev/null || true
  for _ in $(seq 300); do
    # Its parent here is the init, which reaps.
    [ -e "/proc/$pid" ] || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
}

# One that was stopped leaves its rules, and perhaps the emptied chain of an endpoint that was away: the next
# one takes a chain that exists for one with its rules in it, and the Service refuses everybody. Not done at
# each start: for a moment nothing is translated, and connections through Services die without a word.
proxy_rules_away() {
  kube-proxy --config $D/kube-proxy.yaml --cleanup >>$D/log/kube-proxy.log 2>&1
}

boot() {
  mounts
  network
  cgroups
  files
  say "namespaces: ready"
  start etcd
  start containerd
  start kube-apiserver
  wait_for 150 containerd ctr version
  local image
  for image in $ROOT/images/*.tar; do ctr -n k8s.io images import "$image" >/dev/null; done
  say "images: imported"
  wait_for 150 kube-apiserver kubectl --request-timeout=5s get --raw /readyz
  for component in kube-controller-manager kube-scheduler kubelet kube-proxy; do start $component; done
  wait_for 150 node kubectl wait --for=condition=Ready node/$NODE --timeout=1s
  wait_for 150 "default service account" kubectl -n default get serviceaccount default
}

case ${1:?what} in
boot) boot ;;
start) start "$2" ;;
stop) stop "$2" "${3:-TERM}" ;;
signal) kill "-$3" "$(cat "$D/$2.pid")" ;;
proxy-rules-away) proxy_rules_away ;;
*) echo "boot, start COMPONENT, stop COMPONENT, signal COMPONENT SIGNAL or proxy-rules-away" >&2; exit 64 ;;
esac
