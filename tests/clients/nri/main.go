// An NRI plugin on the stub of the reference implementation: it tells what it hears and wants what
// it is configured to want. The tests drive it as an outside client.
//
// It writes one JSON line for each call to the file that -log names. What it does is a JSON object
// (see rules), given by -rules or as the configuration that the runtime hands to a plugin that it
// has started itself; the log file is then named there.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// rules say what the plugin wants.
type rules struct {
	Log string `json:"log"`
	// Calls that fail, with the text of the error; calls that are never answered.
	Fail map[string]string `json:"fail"`
	Hang []string          `json:"hang"`
	// Wanted of every new container.
	Rlimits     map[string]uint64 `json:"rlimits"`
	Env         map[string]string `json:"env"`
	RemoveEnv   []string          `json:"remove_env"`
	Annotations map[string]string `json:"annotations"`
	Args        []string          `json:"args"`
	Devices     []device          `json:"devices"`
	Mounts      []*api.Mount      `json:"mounts"`
	CPUShares   uint64            `json:"cpu_shares"`
	// Wanted of containers that are there when a new one is made: shares by container name.
	UpdateOthers map[string]uint64 `json:"update_others"`
	// Refuses any adjustment.
	Reject string `json:"reject"`
	// Unsolicited, right after synchronisation: shares for all containers.
	SharesOfAll uint64 `json:"shares_of_all"`
}

type device struct {
	Path         string
	Type         string
	Major, Minor int64
}

type plugin struct {
	sync.Mutex
	rules rules
	log   *os.File
	stub  stub.Stub
	// Ids of containers by their names.
	containers map[string]string
}

// line is one line of the log.
type line struct {
	Call       string              `json:"call"`
	Pod        *api.PodSandbox     `json:"pod,omitempty"`
	Container  *api.Container      `json:"container,omitempty"`
	Pods       []*api.PodSandbox   `json:"pods,omitempty"`
	Containers []*api.Container    `json:"containers,omitempty"`
	Text       string              `json:"text,omitempty"`
	Resources  *api.LinuxResources `json:"resources,omitempty"`
}

func (p *plugin) hear(l line) error {
	p.Lock()
	if l.Container != nil {
		p.containers[l.Container.Name] = l.Container.Id
	}
	if p.log != nil {
		text, err := json.Marshal(l)
		if err != nil {
			text = []byte(fmt.Sprintf(`{"call":%q,"text":%q}`, l.Call, err))
		}
		p.log.Write(append(text, '\n'))
	}
	p.Unlock()
	for _, call := range p.rules.Hang {
		if call == l.Call {
			select {}
		}
	}
	if text, ok := p.rules.Fail[l.Call]; ok {
		return errors.New(text)
	}
	return nil
}

func (p *plugin) open() error {
	if p.rules.Log == "" || p.log != nil {
		return nil
	}
	var err error
	p.log, err = os.OpenFile(p.rules.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	if config != "" {
		if err := json.Unmarshal([]byte(config), &p.rules); err != nil {
			return 0, err
		}
	}
	if err := p.open(); err != nil {
		return 0, err
	}
	return 0, p.hear(line{Call: "Configure", Text: runtime + " " + version})
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, c := range containers {
		p.containers[c.Name] = c.Id
	}
	err := p.hear(line{Call: "Synchronize", Pods: pods, Containers: containers})
	if p.rules.SharesOfAll != 0 {
		go func() {
			time.Sleep(100 * time.Millisecond)
			var updates []*api.ContainerUpdate
			for _, c := range containers {
				updates = append(updates, shares(c.Id, p.rules.SharesOfAll))
			}
			failed, err := p.stub.UpdateContainers(updates)
			p.hear(line{Call: "Updated", Text: fmt.Sprintf("%d failed, error %v", len(failed), err)})
		}()
	}
	return nil, err
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear(line{Call: "RunPodSandbox", Pod: pod})
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, r *api.LinuxResources) error {
	return p.hear(line{Call: "UpdatePodSandbox", Pod: pod, Resources: r})
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear(line{Call: "PostUpdatePodSandbox", Pod: pod})
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear(line{Call: "StopPodSandbox", Pod: pod})
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.hear(line{Call: "RemovePodSandbox", Pod: pod})
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.hear(line{Call: "CreateContainer", Pod: pod, Container: c}); err != nil {
		return nil, nil, err
	}
	a := &api.ContainerAdjustment{}
	for name, limit := range p.rules.Rlimits {
		a.AddRlimit(name, limit, limit)
	}
	for _, key := range p.rules.RemoveEnv {
		a.RemoveEnv(key)
	}
	for key, value := range p.rules.Env {
		a.AddEnv(key, value)
	}
	for key, value := range p.rules.Annotations {
		a.AddAnnotation(key, value)
	}
	if len(p.rules.Args) > 0 {
		a.SetArgs(p.rules.Args)
	}
	for _, d := range p.rules.Devices {
		a.AddDevice(&api.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor})
	}
	for _, m := range p.rules.Mounts {
		a.AddMount(m)
	}
	if p.rules.CPUShares != 0 {
		a.SetLinuxCPUShares(p.rules.CPUShares)
	}
	var updates []*api.ContainerUpdate
	for name, value := range p.rules.UpdateOthers {
		if id, known := p.containers[name]; known && id != c.Id {
			updates = append(updates, shares(id, value))
		}
	}
	return a, updates, nil
}

func shares(id string, value uint64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUShares(value)
	return u
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.hear(line{Call: "PostCreateContainer", Pod: pod, Container: c})
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.hear(line{Call: "StartContainer", Pod: pod, Container: c})
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.hear(line{Call: "PostStartContainer", Pod: pod, Container: c})
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	err := p.hear(line{Call: "UpdateContainer", Pod: pod, Container: c, Resources: r})
	if err != nil || p.rules.CPUShares == 0 {
		return nil, err
	}
	return []*api.ContainerUpdate{shares(c.Id, p.rules.CPUShares)}, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.hear(line{Call: "PostUpdateContainer", Pod: pod, Container: c})
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.hear(line{Call: "StopContainer", Pod: pod, Container: c})
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.hear(line{Call: "RemoveContainer", Pod: pod, Container: c})
}

func (p *plugin) ValidateContainerAdjustment(_ context.Context, r *api.ValidateContainerAdjustmentRequest) error {
	if err := p.hear(line{Call: "ValidateContainerAdjustment", Pod: r.Pod, Container: r.Container}); err != nil {
		return err
	}
	if p.rules.Reject != "" {
		return errors.New(p.rules.Reject)
	}
	return nil
}

func main() {
	name := flag.String("name", "", "name to register as")
	index := flag.String("idx", "", "index to register as")
	socket := flag.String("socket", "", "socket of the runtime")
	text := flag.String("rules", "{}", "what to do, as JSON")
	flag.Parse()

	p := &plugin{containers: map[string]string{}}
	if err := json.Unmarshal([]byte(*text), &p.rules); err != nil {
		fail(err)
	}
	if err := p.open(); err != nil {
		fail(err)
	}
	var options []stub.Option
	if *name != "" {
		options = append(options, stub.WithPluginName(*name), stub.WithPluginIdx(*index))
	}
	if *socket != "" {
		options = append(options, stub.WithSocketPath(*socket))
	}
	var err error
	if p.stub, err = stub.New(p, options...); err != nil {
		fail(err)
	}
	if err := p.stub.Run(context.Background()); err != nil {
		p.hear(line{Call: "Ended", Text: err.Error()})
		fail(err)
	}
	p.hear(line{Call: "Ended"})
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
