package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
)

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	opened.Add(1)
	return (&net.Dialer{Timeout: *timeout}).DialContext(ctx, network, address)
}

// http1 is one pool of connections for all, as programs have it.
func http1() []call {
	pool := &http.Client{Timeout: *timeout, Transport: &http.Transport{
		DialContext: dial, MaxIdleConnsPerHost: *connections, DisableCompression: true,
	}}
	callers := make([]call, *connections)
	for i := range callers {
		callers[i] = func(body []byte) ([]byte, error) { return post(pool, body) }
	}
	return callers
}

// h2c is a connection of its own for every few streams.
func h2c() []call {
	var callers []call
	for range *connections {
		transport := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		client := &http.Client{Timeout: *timeout, Transport: transport}
		for range *streams {
			callers = append(callers, func(body []byte) ([]byte, error) { return post(client, body) })
		}
	}
	return callers
}

func post(client *http.Client, body []byte) ([]byte, error) {
	request, err := http.NewRequest("POST", "http://"+*target+*path, bytes.NewReader(body))
	if *get {
		request, err = http.NewRequest("GET", "http://"+*target+*path, nil)
	}
	if err != nil {
		return nil, err
	}
	// net/http sends a GET again by itself; here that is a failure.
	sent := 0
	if *protocol == "h1" {
		trace := &httptrace.ClientTrace{WroteHeaders: func() { sent++ }}
		request = request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
	}
	// Without it net/http cannot send the body a second time, so it does not try. Over HTTP/2 it does so
	// only with what the server has said that it did not look at, or what was never sent at all.
	if *protocol == "h1" {
		request.GetBody = nil
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.Close {
		closes.Add(1)
	}
	answer, err := io.ReadAll(response.Body)
	if err == nil && sent > 1 {
		err = fmt.Errorf("it took %d requests", sent)
	}
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", response.Status)
	}
	return answer, err
}
