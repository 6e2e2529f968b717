package doctor

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Only a bridge's own answer counts: not that of whatever something else on the port refers to.
func TestAskReadyFollowsNobody(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer elsewhere.Close()
	other := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer other.Close()
	_, err := AskReady(t.Context(), strings.TrimPrefix(other.URL, "http://"))
	if err == nil || err.Error() != "it is no bridge that answers: 302 Found" {
		t.Errorf("got %v", err)
	}
}
